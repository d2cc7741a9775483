//! Contests, spreads, and the processes' CPU clocks.

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

pub const GIB: f64 = (1_u64 << 30) as f64;

/// How much is done.
pub struct Effort {
    pub quick: bool,
}

impl Effort {
    /// How often each contender has its turn: an odd number, so that the median is one of them.
    pub fn runs(&self) -> usize {
        if self.quick { 1 } else { 7 }
    }

    /// How many bytes go through in one turn, of the `full` number.
    pub fn bytes(&self, full: u64) -> u64 {
        if self.quick { full / 32 } else { full }
    }
}

/// What one turn showed.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The figure itself, in the contest's unit.
    pub value: f64,
    /// CPU seconds for a GiB of each process in the path, by its name.
    pub cpu: BTreeMap<String, f64>,
}

impl Sample {
    /// A figure that has no cost of its own.
    pub fn of(value: f64) -> Self {
        Self {
            value,
            cpu: BTreeMap::new(),
        }
    }

    /// CPU seconds for a GiB of everybody in the path, but for the programs at its ends.
    pub fn cost(&self) -> f64 {
        self.cpu.values().sum()
    }
}

/// One of those who take turns. What it is asked for takes one turn.
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

/// What every turn of every contender showed: the first of them is ours.
pub struct Contest<S = Sample> {
    names: Vec<String>,
    samples: Vec<Vec<S>>,
}

impl<S> Contest<S> {
    /// Lets them take turns, `runs` times each, after one that does not count.
    pub fn hold(runs: usize, mut contenders: Vec<Contender<S>>) -> Self {
        for contender in &mut contenders {
            (contender.turn)();
        }
        let mut samples: Vec<_> = contenders.iter().map(|_| Vec::new()).collect();
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        for _ in 0..runs {
            for &index in &order {
                samples[index].push((contenders[index].turn)());
            }
            // What one leaves behind, in caches and in the processor's clock, its next one finds.
            order.reverse();
        }
        Self {
            names: contenders.into_iter().map(|one| one.name).collect(),
            samples,
        }
    }

    /// What every turn of ours showed.
    pub fn ours(&self) -> &[S] {
        &self.samples[0]
    }

    /// What every turn of that contender showed.
    pub fn of(&self, name: &str) -> &[S] {
        let index = self.names.iter().position(|other| other == name);
        &self.samples[index.unwrap_or_else(|| panic!("there is no contender '{name}'"))]
    }
}

impl Contest {
    /// The row of ours against `peer`, judged by `figure` of each sample.
    pub fn row(
        &self,
        title: Title,
        peer: &str,
        goal: Option<Goal>,
        figure: impl Fn(&Sample) -> f64,
    ) -> Row {
        let theirs = self.of(peer);
        let figures = |samples: &[Sample]| samples.iter().map(&figure).collect::<Vec<f64>>();
        let mut row = Row::new(title, peer, &figures(self.ours()), &figures(theirs), goal);
        row.cpu = Cost {
            ours: median_cost(self.ours()),
            theirs: median_cost(theirs),
        };
        row
    }

    /// The row of ours against a figure that is known beforehand.
    pub fn constant(
        &self,
        title: Title,
        (peer, theirs): (&str, f64),
        goal: Option<Goal>,
        figure: impl Fn(&Sample) -> f64,
    ) -> Row {
        let ours: Vec<f64> = self.ours().iter().map(figure).collect();
        let mut row = Row::new(title, peer, &ours, &vec![theirs; ours.len()], goal);
        row.cpu.ours = median_cost(self.ours());
        row
    }
}

/// What a row is about.
#[derive(Clone, Copy)]
pub struct Title<'a> {
    pub case: &'a str,
    pub name: &'a str,
    pub unit: &'a str,
}

/// What a ratio has to reach, all other things being equal.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    pub fn ratio(self) -> f64 {
        let (Self::AtLeast(ratio) | Self::AtMost(ratio)) = self;
        ratio
    }

    pub fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }
}

/// A median with the smallest and the largest of what it is the median of.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: sorted[sorted.len() / 2],
            min: sorted[0],
            max: sorted[sorted.len() - 1],
        }
    }
}

/// CPU seconds for a GiB, of each process in the path.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Cost {
    pub ours: BTreeMap<String, f64>,
    pub theirs: BTreeMap<String, f64>,
}

/// One comparison.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Row {
    pub case: String,
    pub name: String,
    pub unit: String,
    pub ours: Spread,
    pub peer: String,
    pub theirs: Spread,
    /// Of ours to theirs, each within one run.
    pub ratio: Spread,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
    pub runs: usize,
    #[serde(default, rename = "cpu_seconds_per_gib")]
    pub cpu: Cost,
}

impl Row {
    /// A row of figures that were taken in turns.
    pub fn new(title: Title, peer: &str, ours: &[f64], theirs: &[f64], goal: Option<Goal>) -> Self {
        let ratios: Vec<f64> = ours
            .iter()
            .zip(theirs)
            .map(|(one, other)| one / other)
            .collect();
        let row = Self {
            case: title.case.to_owned(),
            name: title.name.to_owned(),
            unit: title.unit.to_owned(),
            ours: Spread::of(ours),
            peer: peer.to_owned(),
            theirs: Spread::of(theirs),
            ratio: Spread::of(&ratios),
            goal,
            runs: ours.len(),
            cpu: Cost::default(),
        };
        println!("  {}", crate::report::line(&row));
        row
    }

    /// A row of figures that have to stay below a limit.
    pub fn limited(title: Title, ours: &[f64], limit: f64) -> Self {
        let limits = vec![limit; ours.len()];
        Self::new(title, "limit", ours, &limits, Some(Goal::AtMost(1.0)))
    }
}

fn median_cost(samples: &[Sample]) -> BTreeMap<String, f64> {
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

/// The CPU clocks of the processes in a path, by name. Time of their children is not theirs.
pub struct Clocks(Vec<(String, ClockId)>);

impl Clocks {
    pub fn new<'a>(processes: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let clock = |(name, pid): (&str, u32)| {
            let pid = Pid::from_raw(i32::try_from(pid).unwrap());
            (name.to_owned(), ClockId::pid_cpu_clock_id(pid).unwrap())
        };
        Self(processes.into_iter().map(clock).collect())
    }

    /// Does something that moves `bytes`, and says what it cost each process.
    pub fn cost<T>(&self, bytes: u64, work: impl FnOnce() -> T) -> (T, BTreeMap<String, f64>) {
        let before = self.read();
        let result = work();
        let per_gib = GIB / bytes as f64;
        let spent = self.read().into_iter().zip(before);
        let cost = self
            .0
            .iter()
            .zip(spent)
            .map(|((name, _), (after, before))| {
                (name.clone(), (after - before).as_secs_f64() * per_gib)
            });
        (result, cost.collect())
    }

    fn read(&self) -> Vec<Duration> {
        let read = |(_, clock): &(String, ClockId)| clock_gettime(*clock).unwrap().into();
        self.0.iter().map(read).collect()
    }
}

/// Megabytes (10^6) a second.
pub fn rate(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}
