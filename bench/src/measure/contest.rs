//! Contenders that take turns.

use bench_report::{Cost, Costs, Goal, Row, Spread, Title};
use std::time::Duration;

/// How much work a run does.
pub struct Effort {
    pub quick: bool,
}

impl Effort {
    /// The number of turns of each contender. It is odd, so that the median is one of the values.
    pub fn turns(&self) -> usize {
        if self.quick { 1 } else { 7 }
    }

    /// The duration of a part of a turn, of the `full` one.
    pub fn time(&self, full: Duration) -> Duration {
        if self.quick { full / 8 } else { full }
    }

    /// The number of bytes to move in one turn, of the `full` number.
    pub fn bytes(&self, full: u64) -> u64 {
        if self.quick { full / 32 } else { full }
    }
}

/// The result of one turn.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The measured value, in the contest's unit.
    pub value: f64,
    /// What each process in the path spent. The programs at the ends are not included.
    pub cpu: Costs,
}

impl Sample {
    /// A value without CPU time.
    pub fn of(value: f64) -> Self {
        Self {
            value,
            cpu: Costs::new(),
        }
    }

    /// CPU seconds per GiB of all processes in the path.
    pub fn cost(&self) -> f64 {
        self.cpu.values().sum()
    }
}

/// A program or routine that is measured. Each call of `turn` is one turn.
pub struct Contender<'a, S = Sample> {
    pub name: String,
    pub turn: Box<dyn FnMut() -> S + 'a>,
}

impl<'a, S> Contender<'a, S> {
    pub fn new(name: &str, turn: impl FnMut() -> S + 'a) -> Self {
        Self {
            name: name.to_owned(),
            turn: Box::new(turn),
        }
    }
}

/// The samples of all contenders. The first contender is pve-tunnel.
pub struct Contest<S = Sample> {
    names: Vec<String>,
    samples: Vec<Vec<S>>,
}

impl<S> Contest<S> {
    /// Gives each contender `turns` turns, after one turn that does not count.
    pub fn run(turns: usize, mut contenders: Vec<Contender<S>>) -> Self {
        for contender in &mut contenders {
            (contender.turn)();
        }
        let mut samples: Vec<_> = contenders.iter().map(|_| Vec::new()).collect();
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        for _ in 0..turns {
            for &index in &order {
                samples[index].push((contenders[index].turn)());
            }
            // A turn affects the next one through the caches and the processor's clock rate. Every
            // second round runs in reverse order, so that this does not favour one contender.
            order.reverse();
        }
        Self {
            names: contenders
                .into_iter()
                .map(|contender| contender.name)
                .collect(),
            samples,
        }
    }

    /// The samples of the contender with this name.
    pub fn samples(&self, name: &str) -> &[S] {
        let index = self.names.iter().position(|other| other == name);
        &self.samples[index.unwrap_or_else(|| panic!("there is no contender '{name}'"))]
    }
}

impl Contest {
    /// Compares pve-tunnel with a peer by the `figure` of each sample.
    pub fn row(
        &self,
        title: Title,
        peer: &str,
        goal: Option<Goal>,
        figure: impl Fn(&Sample) -> f64,
    ) -> Row {
        self.row_of(&self.names[0], title, peer, goal, figure)
    }

    /// Compares a contender with another one.
    pub fn row_of(
        &self,
        name: &str,
        title: Title,
        peer: &str,
        goal: Option<Goal>,
        figure: impl Fn(&Sample) -> f64,
    ) -> Row {
        let (ours, theirs) = (self.samples(name), self.samples(peer));
        let figures = |samples: &[Sample]| samples.iter().map(&figure).collect::<Vec<f64>>();
        let mut row = Row::new(title, peer, &figures(ours), &figures(theirs), goal);
        row.cpu = Cost {
            ours: median_costs(ours),
            theirs: median_costs(theirs),
        };
        row
    }

    /// Compares pve-tunnel with a constant.
    pub fn row_against_constant(
        &self,
        title: Title,
        constant: (&str, f64),
        goal: Option<Goal>,
        figure: impl Fn(&Sample) -> f64,
    ) -> Row {
        self.row_of_against_constant(&self.names[0], title, constant, goal, figure)
    }

    /// Compares a contender with a constant.
    pub fn row_of_against_constant(
        &self,
        name: &str,
        title: Title,
        (peer, constant): (&str, f64),
        goal: Option<Goal>,
        figure: impl Fn(&Sample) -> f64,
    ) -> Row {
        let ours: Vec<f64> = self.samples(name).iter().map(figure).collect();
        let mut row = Row::new(title, peer, &ours, &vec![constant; ours.len()], goal);
        row.cpu.ours = median_costs(self.samples(name));
        row
    }
}

fn median_costs(samples: &[Sample]) -> Costs {
    let names = samples.first().map(|sample| sample.cpu.keys());
    names
        .into_iter()
        .flatten()
        .map(|name| {
            let values: Vec<f64> = samples.iter().map(|sample| sample.cpu[name]).collect();
            (name.clone(), Spread::of(&values).median)
        })
        .collect()
}
