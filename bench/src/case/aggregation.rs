//! Streams over a fixed number of connections, compared with aggligator over as many TCP
//! connections.
//!
//! aggligator does not encrypt, so its counterpart is `tcp`. The rows of `tls` have a goal only where
//! the network is the limit. The sockets are the kernel's on both sides.

use crate::connection::{Connection, transfer_over_with};
use crate::measure::{Clocks, Contender, Contest, Effort, Goal, Rows, Sample, Title};
use crate::network::with_link;
use crate::peer::aggligator;
use crate::plane;
use crate::tunnel::Tunnel;
use serde_json::json;
use std::time::Duration;
use testing::link::Link;
use testing::namespace::DeadPath;

/// The peer: with a thread for each core, as its documentation shows it, and with one thread, which
/// takes less CPU time.
const AGGLIGATOR: &str = "aggligator";
const ONE_THREAD: &str = "aggligator, one thread";

/// Numbers of connections on loopback, and the number on paths with a delay.
const ON_LOOPBACK: [u16; 2] = [1, 4];
const OVER_LINKS: u16 = 4;

/// Bytes of a turn on loopback.
const BYTES: u64 = 1 << 30;

/// The first part of a turn over a link, which is not measured, and the rest: as in the case `lanes`.
const START: Duration = Duration::from_secs(12);
const TIME: Duration = Duration::from_secs(10);

/// Each turn over a link lasts long, so there are fewer of them.
const TURNS: usize = 3;

/// pve-tunnel's planes.
const PLANES: [&str; 2] = ["tcp", "tls"];

struct Path {
    name: &'static str,
    milliseconds: u64,
    loss: f64,
    /// Whether the packets of one of the connections vanish during the measurement. No end notices it.
    is_cut: bool,
}

const PATHS: [Path; 3] = [
    Path {
        name: "100 ms, system's settings",
        milliseconds: 100,
        loss: 0.0,
        is_cut: false,
    },
    Path {
        name: "40 ms, 0.1 % loss, CUBIC",
        milliseconds: 40,
        loss: 0.001,
        is_cut: false,
    },
    Path {
        name: "100 ms, one of them dead",
        milliseconds: 100,
        loss: 0.0,
        is_cut: true,
    },
];

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    for lanes in ON_LOOPBACK {
        on_loopback(effort, lanes, rows)?;
    }
    with_link(|link| {
        for path in &PATHS {
            link.set_round_trip(Duration::from_millis(path.milliseconds));
            link.set_loss(path.loss);
            over_path(effort, link, path, rows)?;
        }
        Ok(())
    })
}

fn on_loopback(effort: &Effort, lanes: u16, rows: &mut Rows) -> Result<(), String> {
    let bytes = effort.bytes(BYTES);
    let theirs = Connection::through(aggligator::pair(lanes, None)?);
    let one_thread = Connection::through(aggligator::pair(lanes, Some(1))?);
    let [tcp, tls] = PLANES.map(|plane| Connection::through(plane::with_lanes(plane, lanes)));
    let contest = Contest::run(
        effort.turns(),
        vec![
            Contender::new("tcp", || tcp.transfer(bytes)),
            Contender::new("tls", || tls.transfer(bytes)),
            Contender::new(AGGLIGATOR, || theirs.transfer(bytes)),
            Contender::new(ONE_THREAD, || one_thread.transfer(bytes)),
        ],
    );
    for plane in PLANES {
        let name = format!("{plane}, {}, loopback", count(lanes));
        let title = |unit| Title {
            case: "aggregation",
            name: &name,
            unit,
        };
        let goal = |goal| Some(goal).filter(|_| plane == "tcp");
        let (speed, cost) = (goal(Goal::AtLeast(2.0)), goal(Goal::AtMost(0.4)));
        for peer in [AGGLIGATOR, ONE_THREAD] {
            rows.extend([
                contest.row_of(plane, title("MB/s"), peer, speed, |sample| sample.value),
                contest.row_of(plane, title("CPU s/GiB"), peer, cost, Sample::cost),
            ]);
        }
    }
    Ok(())
}

/// `1 lane`, or `4 lanes`.
fn count(lanes: u16) -> String {
    match lanes {
        1 => "1 lane".to_owned(),
        _ => format!("{lanes} lanes"),
    }
}

fn over_path(effort: &Effort, link: &Link, path: &Path, rows: &mut Rows) -> Result<(), String> {
    let (start, time) = (effort.time(START), effort.time(TIME));
    let mut request = json!({ "lanes": OVER_LINKS, "first_lanes": OVER_LINKS });
    for field in ["congestion", "buffer"] {
        request[field] = "system".into();
    }
    let listener = json!({ "congestion": "system", "buffer": "system" });
    let contender = |name, mut tunnel: Box<dyn Tunnel>| {
        let clocks = Clocks::new(tunnel.processes());
        let cut = || path.is_cut.then(|| DeadPath::of_busiest(|_| true));
        Contender::new(name, move || {
            transfer_over_with(link, &mut tunnel, &clocks, start, time, cut)
        })
    };
    let ours = |plane| link.tunnel_with(plane, &request, listener.clone());
    let mut contenders = Vec::from(PLANES.map(|plane| contender(plane, Box::new(ours(plane)))));
    let theirs = aggligator::pair_over(link, OVER_LINKS)?;
    contenders.push(contender(AGGLIGATOR, Box::new(theirs)));
    let contest = Contest::run(effort.turns().min(TURNS), contenders);
    for plane in PLANES {
        let name = format!("{plane}, {}, {}", count(OVER_LINKS), path.name);
        let title = Title {
            case: "aggregation",
            name: &name,
            unit: "MB/s",
        };
        let goal = Some(Goal::AtLeast(1.0));
        rows.push(contest.row_of(plane, title, AGGLIGATOR, goal, |sample| sample.value));
    }
    Ok(())
}
