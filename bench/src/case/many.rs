//! Many forwards at once.

use crate::measure::{Contender, Contest, Effort, Goal, Row, Rows, Spread, Title, rate};
use crate::tunnel::{CONNECTOR, Ends, LISTENER, Tunnel};
use crate::{load, plane};
use std::time::Duration;
use testing::peak_memory;

/// The numbers of forwards.
const COUNTS: [usize; 4] = [1, 4, 16, 64];

/// The duration of one turn.
const TURN: Duration = Duration::from_secs(2);

/// The memory limit of a process, in MiB: a fixed part, and a part for each connection.
const MEMORY: f64 = 24.0;
const MEMORY_EACH: f64 = 0.5;

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    for plane in ["tls", "tcp", "websocket"] {
        let groups = COUNTS.map(|count| Forwards::open(count, plane));
        match groups.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(groups) => contest(effort, plane, &groups, rows),
            Err(reason) => crate::output::line(format_args!("  skipped: {plane}: {reason}")),
        }
    }
    Ok(())
}

fn contest(effort: &Effort, plane: &str, groups: &[Forwards], rows: &mut Rows) {
    let time = if effort.quick { TURN / 4 } else { TURN };
    let contenders = groups.iter().map(|forwards| {
        Contender::new(&forwards.name, || {
            Throughput::of(&forwards.connections, time)
        })
    });
    let contest = Contest::run(effort.turns(), contenders.collect());
    let figures = |forwards: &Forwards, figure: fn(&Throughput) -> f64| -> Vec<f64> {
        let samples = contest.samples(&forwards.name);
        samples.iter().map(figure).collect()
    };
    let one = &groups[0];
    for forwards in &groups[1..] {
        let count = forwards.connections.len();
        let name = |what: &str| format!("{plane} × {count}, {what}");
        let sum = |throughput: &Throughput| throughput.sum;
        rows.push(Row::new(
            title(&name("sum"), "MB/s"),
            &one.name,
            &figures(forwards, sum),
            &figures(one, sum),
            Some(Goal::AtLeast(0.95)),
        ));
        rows.push(Row::new(
            title(&name("slowest"), "MB/s"),
            "their mean",
            &figures(forwards, |throughput| throughput.slowest),
            &figures(forwards, |throughput| throughput.mean),
            Some(Goal::AtLeast(0.7)),
        ));
        let limit = MEMORY + MEMORY_EACH * count as f64;
        let processes = forwards.tunnel.processes().into_iter();
        for (process, pid) in processes.filter(|(name, _)| [CONNECTOR, LISTENER].contains(name)) {
            let memory = peak_memory(pid) as f64 / 1024.0;
            rows.push(Row::limited(title(&name(process), "MiB"), &[memory], limit));
        }
    }
}

fn title<'a>(name: &'a str, unit: &'a str) -> Title<'a> {
    Title {
        case: "many",
        name,
        unit,
    }
}

/// A tunnel with some forwards, and one connection through each.
struct Forwards {
    name: String,
    tunnel: Box<dyn Tunnel>,
    connections: Vec<Ends>,
}

impl Forwards {
    fn open(count: usize, plane: &str) -> Result<Self, String> {
        let mut tunnel = plane::tunnel(plane)?;
        Ok(Self {
            name: match count {
                1 => "one forward".to_owned(),
                _ => format!("{count} forwards"),
            },
            connections: (0..count).map(|_| tunnel.connect()).collect(),
            tunnel,
        })
    }
}

/// The throughput of all connections in one turn, in MB/s.
struct Throughput {
    sum: f64,
    slowest: f64,
    mean: f64,
}

impl Throughput {
    fn of(connections: &[Ends], time: Duration) -> Self {
        let moved = load::transfer_through_all(connections, time);
        let rates: Vec<f64> = moved.into_iter().map(|bytes| rate(bytes, time)).collect();
        let sum = rates.iter().sum();
        Self {
            sum,
            slowest: Spread::of(&rates).min,
            mean: sum / rates.len() as f64,
        }
    }
}
