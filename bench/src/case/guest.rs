//! The RAM and the disk of a real guest, over each plane.

use crate::guest::{Setup, Transport};
use crate::measure::{Contender, Contest, Effort, Goal, Rows, STOCK, Sample, Title};
use crate::peer::node::{Front, Node};
use crate::plane;
use crate::qemu;

/// The size of the RAM, and of the disk, in bytes.
const BYTES: u64 = 1 << 30;
const AT_LEAST: u64 = 64 << 20;

const OURS: &str = "pve-tunnel";

/// A plane, with the goals against QEMU alone and against `STOCK`.
struct Plane {
    name: &'static str,
    against_bare: Option<Goal>,
    against_stock: Option<Goal>,
}

const PLANES: [Plane; 3] = [
    Plane {
        name: "tls",
        against_bare: Some(Goal::AtLeast(0.8)),
        against_stock: Some(Goal::AtLeast(1.5)),
    },
    Plane {
        name: "tcp",
        against_bare: None,
        against_stock: None,
    },
    Plane {
        name: TO_TEST_NODE,
        against_bare: None,
        against_stock: None,
    },
];

const TO_TEST_NODE: &str = "websocket to test node";

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    qemu::require()?;
    let has_stock = match Node::start(Front::Pveproxy) {
        Ok(_) => true,
        Err(reason) => {
            crate::output::line(format_args!("  skipped: {STOCK}: {reason}"));
            false
        }
    };
    let setup = Setup::new(effort.bytes(BYTES).max(AT_LEAST));
    for (kind, peer, turn) in [
        ("RAM", "QEMU to QEMU", Setup::migrate as Turn),
        ("NBD", "bare NBD", Setup::mirror),
    ] {
        for plane in &PLANES {
            let mut tunnel = match transport(plane.name) {
                Ok(tunnel) => tunnel,
                Err(reason) => {
                    crate::output::line(format_args!("  skipped: {}: {reason}", plane.name));
                    continue;
                }
            };
            let mut bare = Transport::Bare;
            let mut turns = [OURS, peer, STOCK].map(|_| Turns::new(turn));
            let [ours, theirs, stock] = &mut turns;
            let mut contenders = vec![
                Contender::new(OURS, || ours.run(&setup, &mut tunnel)),
                Contender::new(peer, || theirs.run(&setup, &mut bare)),
            ];
            // Both would be websockets, which differ only in the target's program.
            let with_stock = has_stock && plane.name != TO_TEST_NODE;
            if with_stock {
                contenders.push(Contender::new(STOCK, || {
                    stock.run(&setup, &mut stock_node())
                }));
            }
            let contest = Contest::run(effort.turns(), contenders);
            let name = format!("{kind}, {}", plane.name);
            let title = Title {
                case: "guest",
                name: &name,
                unit: "MB/s",
            };
            let speed = |sample: &Sample| sample.value;
            rows.push(contest.row(title, peer, plane.against_bare, speed));
            if with_stock {
                rows.push(contest.row(title, STOCK, plane.against_stock, speed));
            }
        }
    }
    Ok(())
}

fn transport(plane: &str) -> Result<Transport, String> {
    Ok(match plane {
        TO_TEST_NODE => Transport::Websocket(Box::new(Node::start(Front::TestNode)?)),
        _ => Transport::Direct(Box::new(plane::direct(plane))),
    })
}

/// A new pveproxy, whose buffers are empty.
fn stock_node() -> Transport {
    Transport::Websocket(Box::new(Node::start(Front::Pveproxy).unwrap()))
}

/// One turn. If `check` is set, it compares the copy with the original.
type Turn = fn(&Setup, &mut Transport, check: bool) -> Sample;

/// The turns of a contender. Only the first one, which does not count, checks the copy.
struct Turns {
    turn: Turn,
    is_checked: bool,
}

impl Turns {
    fn new(turn: Turn) -> Self {
        Self {
            turn,
            is_checked: false,
        }
    }

    fn run(&mut self, setup: &Setup, transport: &mut Transport) -> Sample {
        let check = !std::mem::replace(&mut self.is_checked, true);
        (self.turn)(setup, transport, check)
    }
}
