//! How long a request and its answer take.

use crate::load;
use crate::measure::{Contender, Contest, Effort, Goal, Row, Title};
use crate::path::{Path, ours};
use crate::peer::stunnel;
use std::os::unix::net::UnixStream;

/// A request and its answer, in bytes each.
const SIZE: usize = 4096;

/// Of them in one turn.
const ROUNDS: usize = 20_000;

const STUNNEL: &str = "stunnel";

/// The asker's socket connected with that of who answers.
const BARE: &str = "bare UNIX socket";

/// What `tcp` may add to that, in µs.
const ADDED: f64 = 40.0;

pub fn run(effort: &Effort) -> Result<Vec<Row>, String> {
    let rounds = if effort.quick { ROUNDS / 20 } else { ROUNDS };
    let (asker, echo) = UnixStream::pair().unwrap();
    let stunnel = Path::through(stunnel::pair()?);
    let mut planes = Vec::new();
    for plane in ["tls", "tcp", "websocket"] {
        match ours(plane) {
            Ok(tunnel) => planes.push((plane, Path::through(tunnel))),
            Err(reason) => println!("  left out: {plane}: {reason}"),
        }
    }
    for path in planes.iter().map(|(_, path)| path).chain([&stunnel]) {
        path.give_each_node_a_core();
    }
    let mut contenders = vec![
        Contender::new(BARE, || Latency::between(&asker, &echo, rounds)),
        Contender::new(STUNNEL, || Latency::through(&stunnel, rounds)),
    ];
    for (plane, path) in &planes {
        contenders.push(Contender::new(plane, || Latency::through(path, rounds)));
    }
    let contest = Contest::hold(effort.runs(), contenders);
    let figures = |name, figure: fn(&Latency) -> f64| -> Vec<f64> {
        contest.of(name).iter().map(figure).collect()
    };
    let mut rows = Vec::new();
    for (plane, _) in planes {
        let goal = Some(Goal::AtMost(1.0));
        for (percentile, figure, goal) in [
            ("p50", (|one| one.p50) as fn(&Latency) -> f64, goal),
            ("p99", |one| one.p99, goal),
            ("p99.9", |one| one.p999, None),
        ] {
            let name = format!("{plane}, {percentile}");
            let ours = figures(plane, figure);
            for (peer, goal) in [(STUNNEL, goal), (BARE, None)] {
                let theirs = figures(peer, figure);
                rows.push(Row::new(title(&name), peer, &ours, &theirs, goal));
            }
        }
    }
    let added: Vec<f64> = figures("tcp", |one| one.p50)
        .iter()
        .zip(figures(BARE, |one| one.p50))
        .map(|(ours, bare)| ours - bare)
        .collect();
    rows.push(Row::limited(title("tcp, p50, added"), &added, ADDED));
    Ok(rows)
}

fn title(name: &str) -> Title<'_> {
    Title {
        case: "latency",
        name,
        unit: "µs",
    }
}

/// How long many requests of one turn took, in µs.
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
}

impl Latency {
    fn through(path: &Path, rounds: usize) -> Self {
        Self::between(&path.source, &path.sink, rounds)
    }

    fn between(asker: &UnixStream, echo: &UnixStream, rounds: usize) -> Self {
        let mut times = load::ask(asker, echo, SIZE, rounds);
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
