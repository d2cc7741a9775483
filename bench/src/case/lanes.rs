//! Streams over several connections, compared with one connection over the same path.
//!
//! On paths with a delay or loss, the sockets are the kernel's, which is where several connections
//! help. Each turn uses a new stream, which finds its number of lanes within the first part of the
//! turn.

use crate::connection::{Connection, transfer_over};
use crate::measure::{Clocks, Contender, Contest, Effort, Goal, Rows, Sample, Title};
use crate::network::with_link;
use crate::plane;
use crate::tunnel::Tunnel;
use serde_json::{Value, json};
use std::time::Duration;
use testing::link::Link;
use testing::seam::NegotiatedTunnel;

/// The peer.
const ONE: &str = "one connection";

/// The most lanes of a stream.
const LANES: u16 = 8;

/// The first part of a turn, which is not measured, and the rest.
const START: Duration = Duration::from_secs(12);
const TIME: Duration = Duration::from_secs(10);

/// Each turn lasts long, so this case has fewer than others.
const TURNS: usize = 3;

/// Bytes of a turn on loopback.
const BYTES: u64 = 2 << 30;

/// A path, and the goal for lanes on it.
struct Path {
    name: &'static str,
    milliseconds: u64,
    loss: f64,
    settings: Settings,
    goal: Goal,
}

/// The settings of the sockets at both ends.
#[derive(Clone, Copy)]
enum Settings {
    /// As the kernel selects them.
    System,
    Default,
}

impl Settings {
    fn fields(self) -> Value {
        match self {
            Self::System => json!({ "congestion": "system", "buffer": "system" }),
            Self::Default => json!({}),
        }
    }
}

const PATHS: [Path; 3] = [
    Path {
        name: "100 ms, system's settings",
        milliseconds: 100,
        loss: 0.0,
        settings: Settings::System,
        goal: Goal::AtLeast(3.0),
    },
    Path {
        name: "40 ms, 0.1 % loss, CUBIC",
        milliseconds: 40,
        loss: 0.001,
        settings: Settings::System,
        goal: Goal::AtLeast(4.0),
    },
    Path {
        name: "100 ms",
        milliseconds: 100,
        loss: 0.0,
        settings: Settings::Default,
        goal: Goal::AtLeast(0.98),
    },
];

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    loopback(effort, rows);
    with_link(|link| {
        for path in &PATHS {
            over_path(effort, link, path, rows);
        }
        Ok(())
    })
}

/// One lane, which costs what keeping the data until it is acknowledged costs.
fn loopback(effort: &Effort, rows: &mut Rows) {
    let bytes = effort.bytes(BYTES);
    let lane = Connection::through(plane::with_lanes("tls", 1));
    let one = Connection::through(plane::direct("tls"));
    let contest = Contest::run(
        effort.turns(),
        vec![
            Contender::new("one lane", || lane.transfer(bytes)),
            Contender::new(ONE, || one.transfer(bytes)),
        ],
    );
    let title = |unit| Title {
        case: "lanes",
        name: "tls, one lane, loopback",
        unit,
    };
    let (as_fast, as_cheap) = (Some(Goal::AtLeast(0.95)), Some(Goal::AtMost(1.05)));
    rows.extend([
        contest.row(title("MB/s"), ONE, as_fast, |sample| sample.value),
        contest.row(title("CPU s/GiB"), ONE, as_cheap, Sample::cost),
    ]);
}

/// A tunnel whose streams have so many lanes at most.
fn tunnel(link: &Link, settings: Settings, lanes: u16) -> NegotiatedTunnel {
    let mut request = settings.fields();
    request["lanes"] = lanes.into();
    link.tunnel_with("tls", &request, settings.fields())
}

fn over_path(effort: &Effort, link: &Link, path: &Path, rows: &mut Rows) {
    link.set_round_trip(Duration::from_millis(path.milliseconds));
    link.set_loss(path.loss);
    let (start, time) = (effort.time(START), effort.time(TIME));
    let contender = |name, lanes| {
        let mut tunnel = tunnel(link, path.settings, lanes);
        let clocks = Clocks::new(tunnel.processes());
        Contender::new(name, move || {
            transfer_over(link, &mut tunnel, &clocks, start, time)
        })
    };
    let contenders = vec![contender("lanes", LANES), contender(ONE, 1)];
    let contest = Contest::run(effort.turns().min(TURNS), contenders);
    let name = format!("tls, up to {LANES} lanes, {}", path.name);
    let title = Title {
        case: "lanes",
        name: &name,
        unit: "MB/s",
    };
    rows.push(contest.row(title, ONE, Some(path.goal), |sample| sample.value));
}
