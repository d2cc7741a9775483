//! What a direct connection saves: the plane `tls` compared with `websocket` through pveproxy.

use crate::connection::Connection;
use crate::measure::{Contender, Contest, Effort, Goal, Rows, Sample, Title};
use crate::peer::node::{Front, Node};
use crate::plane;

/// The number of bytes in one turn.
const BYTES: u64 = 1 << 30;

const WEBSOCKET: &str = "websocket";

/// Runs only with the real pveproxy: a comparison with the test node would not apply to a real
/// node.
pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    let front = Front::Pveproxy;
    // Only checks whether it starts here. Each turn starts a new one, whose buffers are empty.
    drop(Node::start(front)?);
    let tls = Connection::through(plane::direct("tls"));
    let bytes = effort.bytes(BYTES);
    let websocket = || Connection::through(Node::start(front).unwrap()).transfer(bytes);
    let contest = Contest::run(
        effort.turns(),
        vec![
            Contender::new("tls", || tls.transfer(bytes)),
            Contender::new(WEBSOCKET, websocket),
        ],
    );
    let title = |name, unit| Title {
        case: "planes",
        name,
        unit,
    };
    let (faster, cheaper) = (Some(Goal::AtLeast(2.5)), Some(Goal::AtMost(0.6)));
    rows.extend([
        contest.row(title("tls", "MB/s"), WEBSOCKET, faster, |sample| {
            sample.value
        }),
        contest.row(
            title("tls, both nodes", "CPU s/GiB"),
            WEBSOCKET,
            cheaper,
            Sample::cost,
        ),
    ]);
    Ok(())
}
