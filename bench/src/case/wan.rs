//! All planes over a link with a rate, a delay and loss.
//!
//! Without loss, the goal is a share of the link's rate: at 100 ms a link of 1 Gbit/s holds 12.5 MB.
//! With loss, the goal is a multiple of what one connection with the system's settings (CUBIC)
//! reaches. At 0 and 10 ms the system's settings are already sufficient, and pve-tunnel must not be
//! slower.
//!
//! Each turn uses a new connection, whose windows start at the kernel's default size. It lasts a
//! fixed time, because the contenders differ by a factor of 60. If packets are lost, pve-tunnel
//! changes to BBR during the turn that does not count, and its later connections use BBR at once, as
//! in a migration.

use crate::connection::transfer_over;
use crate::load::transfer_for;
use crate::measure::{Clocks, Contender, Contest, Effort, Goal, Rows, Sample, Title};
use crate::network::with_link;
use crate::peer::node::{Front, Node};
use crate::tunnel::Tunnel;
use std::time::Duration;
use testing::link::Link;
use testing::link::conditions::GIGABIT;

/// The first part of a turn, which is not measured: in it the windows grow, by a part in each round
/// trip. At 100 ms CUBIC takes about 10 s to use the link again after its first full queue.
const SHORTEST_START: Duration = Duration::from_secs(4);
const START_ROUND_TRIPS: u32 = 100;

/// The rest of a turn.
const TURN: Duration = Duration::from_secs(3);

/// The rest of a turn on a long path. BBR stops sending once in 10 s, for 200 ms and a round trip, to
/// measure the round trip; then its window has to grow again. On a long path, 3 s with such a pause
/// are not the rate of a migration, and neither are 3 s without it.
const LONG_TURN: Duration = Duration::from_secs(10);
const LONG_ROUND_TRIP: Duration = Duration::from_millis(100);

/// Each turn lasts long, so this case has fewer than others.
const TURNS: usize = 5;

const PLANES: [&str; 3] = ["tls", "tcp", "websocket"];

/// The peers.
const RATE: &str = "the link's rate";
const ONE: &str = "bare TCP";
const EIGHT: &str = "bare TCP × 8";

/// A link, and the goals on it.
struct Path {
    milliseconds: u64,
    /// In per mille.
    loss: u32,
    mtu: usize,
    /// Compared with [`RATE`], and with [`ONE`]. The goal for the rate does not apply to
    /// `websocket`: there the receiver's window is the target's, which may not have pve-tunnel.
    rate: Option<Goal>,
    one: Option<Goal>,
}

impl Path {
    const fn without_loss(milliseconds: u64, rate: Option<Goal>, one: Option<Goal>) -> Self {
        Self {
            milliseconds,
            loss: 0,
            mtu: 1500,
            rate,
            one,
        }
    }

    const fn with_loss(loss: u32, mtu: usize, one: f64) -> Self {
        Self {
            milliseconds: 20,
            loss,
            mtu,
            rate: None,
            one: Some(Goal::AtLeast(one)),
        }
    }

    /// `40 ms`, or `20 ms, 0.1 % loss`.
    fn name(&self) -> String {
        let mut name = format!("{} ms", self.milliseconds);
        if self.loss > 0 {
            name += &format!(", {} % loss", f64::from(self.loss) / 10.0);
        }
        if self.mtu != 1500 {
            name += &format!(", MTU {}", self.mtu);
        }
        name
    }

    fn round_trip(&self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }

    /// How long the first part of a turn lasts.
    fn start(&self) -> Duration {
        SHORTEST_START.max(self.round_trip() * START_ROUND_TRIPS)
    }

    /// How long the rest of a turn lasts.
    fn time(&self) -> Duration {
        match self.round_trip() >= LONG_ROUND_TRIP {
            true => LONG_TURN,
            false => TURN,
        }
    }

    fn set(&self, link: &Link) {
        link.set_round_trip(self.round_trip());
        link.set_loss(f64::from(self.loss) / 1000.0);
        link.set_mtu(self.mtu);
    }
}

const UNCHANGED: Option<Goal> = Some(Goal::AtLeast(0.98));

const PATHS: [Path; 7] = [
    Path::without_loss(0, None, UNCHANGED),
    Path::without_loss(10, None, UNCHANGED),
    Path::without_loss(40, Some(Goal::AtLeast(0.9)), None),
    Path::without_loss(100, Some(Goal::AtLeast(0.85)), None),
    Path::with_loss(1, 1500, 25.0),
    Path::with_loss(10, 1500, 40.0),
    // WireGuard.
    Path::with_loss(10, 1420, 40.0),
];

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    with_link(|link| {
        for path in &PATHS {
            path.set(link);
            contest(effort, link, path, rows);
        }
        Ok(())
    })
}

/// A tunnel over the link: to the real pveproxy on `websocket`, or to the test node if pveproxy
/// cannot start here.
fn tunnel(link: &Link, plane: &str) -> Box<dyn Tunnel> {
    if plane != "websocket" {
        return Box::new(link.tunnel(plane));
    }
    let node = Node::start_at_target(Front::Pveproxy, link).unwrap_or_else(|reason| {
        crate::output::line(format_args!(
            "  websocket: to the test node instead of pveproxy: {reason}"
        ));
        Node::start_at_target(Front::TestNode, link).unwrap()
    });
    Box::new(node)
}

/// The tunnels are new for each path: what a tunnel learns about a path applies to its later
/// connections.
fn contest(effort: &Effort, link: &Link, path: &Path, rows: &mut Rows) {
    let tunnels = PLANES.map(|plane| tunnel(link, plane));
    let (start, time) = (effort.time(path.start()), effort.time(path.time()));
    let mut contenders = Vec::new();
    for (plane, mut tunnel) in PLANES.iter().zip(tunnels) {
        let clocks = Clocks::new(tunnel.processes());
        contenders.push(Contender::new(plane, move || {
            transfer_over(link, &mut tunnel, &clocks, start, time)
        }));
    }
    for (name, count) in [(ONE, 1), (EIGHT, 8)] {
        contenders.push(Contender::new(name, move || {
            link.wait_until_idle();
            let connections: Vec<_> = (0..count).map(|_| link.connect()).collect();
            Sample::of(transfer_for(&connections, start, time).rate)
        }));
    }
    let contest = Contest::run(effort.turns().min(TURNS), contenders);
    let value = |sample: &Sample| sample.value;
    for plane in PLANES {
        let name = format!("{plane}, {}", path.name());
        let title = Title {
            case: "wan",
            name: &name,
            unit: "MB/s",
        };
        let rate = (RATE, GIGABIT as f64 / 1e6);
        let rate_goal = path.rate.filter(|_| plane != "websocket");
        rows.push(contest.row_of_against_constant(plane, title, rate, rate_goal, value));
        rows.push(contest.row_of(plane, title, ONE, path.one, value));
        rows.push(contest.row_of(plane, title, EIGHT, None, value));
    }
}
