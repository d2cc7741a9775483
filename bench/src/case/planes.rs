//! What a direct connection saves: `tls` against `websocket` through pveproxy.

use crate::load;
use crate::measure::{Clocks, Contender, Contest, Effort, Goal, Row, Sample, Title};
use crate::peer::node::{Front, Node};
use testing::role;
use testing::seam::{Crossing, Seam, wish};

/// How many bytes go through in one turn.
const BYTES: u64 = 1 << 30;

const WEBSOCKET: &str = "websocket";

/// Only against the real pveproxy: how a stand-in compares says nothing about a node.
pub fn run(effort: &Effort) -> Result<Vec<Row>, String> {
    let front = Front::Pveproxy;
    drop(Node::start(front)?);
    let mut crossing = Crossing::on("tls", Seam::starting(role::listeners()), &wish("secure"));
    let (source, target) = crossing.pair();
    let clocks = Clocks::new([
        ("connector", crossing.connector.child.id()),
        ("listener", crossing.seam.listener_pid()),
    ]);
    let bytes = effort.bytes(BYTES);
    let tls = || load::turn(&source, &target, bytes, &clocks);
    let websocket = || {
        let mut node = Node::start(front).unwrap();
        let ends = node.connection();
        let clocks = Clocks::new([("connector", node.connector()), (front.name(), node.pid())]);
        load::turn(&ends.source, &ends.target, bytes, &clocks)
    };
    let contest = Contest::hold(
        effort.runs(),
        vec![
            Contender::new("tls", tls),
            Contender::new(WEBSOCKET, websocket),
        ],
    );
    let title = |name, unit| Title {
        case: "planes",
        name,
        unit,
    };
    let (faster, cheaper) = (Some(Goal::AtLeast(2.5)), Some(Goal::AtMost(0.6)));
    Ok(vec![
        contest.row(title("tls", "MB/s"), WEBSOCKET, faster, |sample| {
            sample.value
        }),
        contest.row(
            title("tls, both nodes", "CPU s/GiB"),
            WEBSOCKET,
            cheaper,
            Sample::cost,
        ),
    ])
}
