//! The direct planes over a link with a rate and a delay.
//!
//! A window that does not grow with the way shows here: at 40 ms a link of 1 Gbit/s holds 5 MB. Every
//! turn has a connection of its own, whose windows begin as small as the kernel makes them, and which
//! has time to grow. CUBIC serves all of them.

use crate::link::Link;
use crate::load;
use crate::measure::{Clocks, Contender, Contest, Effort, Goal, Row, Sample, Title, rate};
use crate::path::Tunnel;
use serde_json::json;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;
use testing::cable::{FAR, wish};
use testing::namespace;
use testing::role;
use testing::seam::{Crossing, Seam};

/// What goes over in one turn: at 1 Gbit/s more than two seconds, of which the slow start takes about
/// a tenth.
const BYTES: u64 = 256 << 20;

const PEER: &str = "bare TCP";

pub fn run(effort: &Effort) -> Result<Vec<Row>, String> {
    thread::scope(|scope| scope.spawn(|| run_apart(effort)).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// In a thread that may have a network namespace of its own.
fn run_apart(effort: &Effort) -> Result<Vec<Row>, String> {
    namespace::unshare().map_err(|error| format!("needs root for network namespaces: {error}"))?;
    namespace::run("ip link set lo up");
    let link = Link::new().map_err(|error| format!("needs TUN devices: {error}"))?;
    let mut rows = Vec::new();
    for plane in ["tls", "tcp"] {
        let mut tunnel = tunnel(&link, plane);
        for round_trip in [0, 10, 40] {
            link.set_round_trip(Duration::from_millis(round_trip));
            let name = format!("{plane}, {round_trip} ms");
            rows.push(contest(effort, &link, &mut tunnel, &name));
        }
        link.set_round_trip(Duration::ZERO);
    }
    Ok(rows)
}

/// A connector on the near node and a listener on the far one. What they say to each other first does
/// not use the link.
fn tunnel(link: &Link, plane: &str) -> Crossing {
    let listeners = link.far().there(role::listeners);
    Crossing::on(plane, Seam::starting(listeners), &wish(plane, &json!({})))
}

fn contest(effort: &Effort, link: &Link, tunnel: &mut Crossing, name: &str) -> Row {
    let bytes = effort.bytes(BYTES);
    let clocks = Clocks::new(tunnel.processes());
    let contest = Contest::hold(
        effort.runs(),
        vec![
            Contender::new("pve-tunnel", || {
                let (source, sink) = tunnel.pair();
                load::turn(&source, &sink, bytes, &clocks)
            }),
            Contender::new(PEER, || {
                let (source, sink) = bare(link);
                Sample::of(rate(bytes, load::stream(&source, &sink, bytes)))
            }),
        ],
    );
    let title = Title {
        case: "wan",
        name,
        unit: "MB/s",
    };
    contest.row(title, PEER, Some(Goal::AtLeast(0.9)), |sample| sample.value)
}

/// A connection of which nothing is set.
fn bare(link: &Link) -> (TcpStream, TcpStream) {
    let listener = link.far().there(|| TcpListener::bind((FAR[0], 0)).unwrap());
    let source = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (source, listener.accept().unwrap().0)
}
