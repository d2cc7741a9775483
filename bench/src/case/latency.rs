//! The time of a round trip.

use crate::connection::Connection;
use crate::measure::{Contender, Contest, Effort, Goal, Row, Rows, Title};
use crate::peer::stunnel;
use crate::{load, plane};
use std::os::unix::net::UnixStream;

/// The size of a request, and of its response, in bytes.
const SIZE: usize = 4096;

/// The number of round trips in one turn.
const ROUNDS: usize = 20_000;

const STUNNEL: &str = "stunnel";

/// Source and sink without a tunnel between them.
const BARE: &str = "bare UNIX socket";

/// The most that `tcp` may add to the median of `BARE`, in µs.
const ADDED: f64 = 40.0;

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    let rounds = if effort.quick { ROUNDS / 20 } else { ROUNDS };
    let (source, sink) = UnixStream::pair().unwrap();
    let stunnel = Connection::through(stunnel::pair()?);
    let mut planes = Vec::new();
    for plane in ["tls", "tcp", "websocket"] {
        match plane::tunnel(plane) {
            Ok(tunnel) => planes.push((plane, Connection::through(tunnel))),
            Err(reason) => crate::output::line(format_args!("  skipped: {plane}: {reason}")),
        }
    }
    let connections = planes.iter().map(|(_, connection)| connection);
    for connection in connections.chain([&stunnel]) {
        connection.pin_processes();
    }
    let mut contenders = vec![
        Contender::new(BARE, || Latency::between(&source, &sink, rounds)),
        Contender::new(STUNNEL, || Latency::through(&stunnel, rounds)),
    ];
    for (plane, connection) in &planes {
        contenders.push(Contender::new(plane, || {
            Latency::through(connection, rounds)
        }));
    }
    let contest = Contest::run(effort.turns(), contenders);
    let figures = |name, figure: fn(&Latency) -> f64| -> Vec<f64> {
        contest.samples(name).iter().map(figure).collect()
    };
    for (plane, _) in planes {
        let goal = Some(Goal::AtMost(1.0));
        for (percentile, figure, goal) in [
            ("p50", (|latency| latency.p50) as fn(&Latency) -> f64, goal),
            ("p99", |latency| latency.p99, goal),
            ("p99.9", |latency| latency.p999, None),
        ] {
            let name = format!("{plane}, {percentile}");
            let ours = figures(plane, figure);
            for (peer, goal) in [(STUNNEL, goal), (BARE, None)] {
                let theirs = figures(peer, figure);
                rows.push(Row::new(title(&name), peer, &ours, &theirs, goal));
            }
        }
    }
    let added: Vec<f64> = figures("tcp", |latency| latency.p50)
        .iter()
        .zip(figures(BARE, |latency| latency.p50))
        .map(|(ours, bare)| ours - bare)
        .collect();
    rows.push(Row::limited(title("tcp, p50, added"), &added, ADDED));
    Ok(())
}

fn title(name: &str) -> Title<'_> {
    Title {
        case: "latency",
        name,
        unit: "µs",
    }
}

/// Percentiles of the round-trip times in one turn, in µs.
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
}

impl Latency {
    fn through(connection: &Connection, rounds: usize) -> Self {
        Self::between(&connection.ends.source, &connection.ends.sink, rounds)
    }

    fn between(source: &UnixStream, sink: &UnixStream, rounds: usize) -> Self {
        let mut times = load::round_trips(source, sink, SIZE, rounds);
        times.sort();
        let at = |share: f64| {
            let index = (share * rounds as f64) as usize;
            times[index].as_secs_f64() * 1e6
        };
        Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
        }
    }
}
