//! Many forwards at once.

use crate::load;
use crate::measure::{Contender, Contest, Effort, Goal, Row, Spread, Title, rate};
use crate::path::{CONNECTOR, LISTENER, Tunnel, ours};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use testing::peak_memory;

/// How many.
const COUNTS: [usize; 4] = [1, 4, 16, 64];

/// How long one turn takes.
const TURN: Duration = Duration::from_secs(2);

/// What a process may have of memory, in MiB: by itself, and for each connection.
const MEMORY: f64 = 24.0;
const MEMORY_EACH: f64 = 0.5;

pub fn run(effort: &Effort) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for plane in ["tls", "tcp", "websocket"] {
        let crowds = COUNTS.map(|count| Crowd::of(count, plane));
        match crowds.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(crowds) => contest(effort, plane, &crowds, &mut rows),
            Err(reason) => println!("  left out: {plane}: {reason}"),
        }
    }
    Ok(rows)
}

fn contest(effort: &Effort, plane: &str, crowds: &[Crowd], rows: &mut Vec<Row>) {
    let time = if effort.quick { TURN / 4 } else { TURN };
    let contenders = crowds
        .iter()
        .map(|crowd| Contender::new(&crowd.name, || Share::of(&crowd.connections, time)));
    let contest = Contest::hold(effort.runs(), contenders.collect());
    let figures = |crowd: &Crowd, figure: fn(&Share) -> f64| -> Vec<f64> {
        contest.of(&crowd.name).iter().map(figure).collect()
    };
    let one = &crowds[0];
    for crowd in &crowds[1..] {
        let name = |what: &str| format!("{plane} × {}, {what}", crowd.connections.len());
        let sum = |share: &Share| share.sum;
        rows.push(Row::new(
            title(&name("sum"), "MB/s"),
            &one.name,
            &figures(crowd, sum),
            &figures(one, sum),
            Some(Goal::AtLeast(0.95)),
        ));
        rows.push(Row::new(
            title(&name("slowest"), "MB/s"),
            "their mean",
            &figures(crowd, |share| share.slowest),
            &figures(crowd, |share| share.mean),
            Some(Goal::AtLeast(0.7)),
        ));
        let limit = MEMORY + MEMORY_EACH * crowd.connections.len() as f64;
        let processes = crowd.tunnel.processes().into_iter();
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

/// A tunnel of ours with so many forwards between them, one connection on each.
struct Crowd {
    name: String,
    tunnel: Box<dyn Tunnel>,
    connections: Vec<(UnixStream, UnixStream)>,
}

impl Crowd {
    fn of(count: usize, plane: &str) -> Result<Self, String> {
        let mut tunnel = ours(plane)?;
        Ok(Self {
            name: match count {
                1 => "one forward".to_owned(),
                _ => format!("{count} forwards"),
            },
            connections: (0..count).map(|_| tunnel.pair()).collect(),
            tunnel,
        })
    }
}

/// How fast they were in one turn, in megabytes a second.
struct Share {
    sum: f64,
    slowest: f64,
    mean: f64,
}

impl Share {
    fn of(connections: &[(UnixStream, UnixStream)], time: Duration) -> Self {
        let moved = load::share(connections, time);
        let rates: Vec<f64> = moved.into_iter().map(|bytes| rate(bytes, time)).collect();
        let sum = rates.iter().sum();
        Self {
            sum,
            slowest: Spread::of(&rates).min,
            mean: sum / rates.len() as f64,
        }
    }
}
