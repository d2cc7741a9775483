//! The direct planes over a link with a rate and a delay.
//!
//! This case shows whether the TCP windows grow with the round-trip time: at 40 ms a link of 1
//! Gbit/s holds 5 MB. Each turn uses a new connection, whose windows start at the kernel's default
//! size, and lasts long enough for them to grow. All connections use CUBIC.

use crate::link::Link;
use crate::load;
use crate::measure::{Clocks, Contender, Contest, Effort, Goal, Row, Rows, Sample, Title, rate};
use crate::tunnel::{Ends, Tunnel};
use serde_json::json;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;
use testing::cable::{TARGET_ADDRESSES, plane_request};
use testing::namespace;
use testing::role;
use testing::seam::{NegotiatedTunnel, Seam};

/// The number of bytes in one turn. At 1 Gbit/s this takes more than two seconds; about a tenth of
/// it is the slow start.
const BYTES: u64 = 256 << 20;

const PEER: &str = "bare TCP";

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    thread::scope(|scope| scope.spawn(|| run_in_thread(effort, rows)).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs the case in this thread, which gets a network namespace of its own.
fn run_in_thread(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    namespace::unshare().map_err(|error| format!("needs root for network namespaces: {error}"))?;
    namespace::run("ip link set lo up");
    let link = Link::new().map_err(|error| format!("needs TUN devices: {error}"))?;
    for plane in ["tls", "tcp"] {
        let mut tunnel = tunnel(&link, plane);
        for round_trip in [0, 10, 40] {
            link.set_round_trip(Duration::from_millis(round_trip));
            let name = format!("{plane}, {round_trip} ms");
            rows.push(contest(effort, &link, &mut tunnel, &name));
        }
        link.set_round_trip(Duration::ZERO);
    }
    Ok(())
}

/// A connector on the near node and a listener on the far node. Their negotiation does not use the
/// link.
fn tunnel(link: &Link, plane: &str) -> NegotiatedTunnel {
    let listeners = link.far().execute(role::listeners);
    NegotiatedTunnel::on_plane(
        plane,
        Seam::with_listeners(listeners),
        &plane_request(plane, &json!({})),
    )
}

fn contest(effort: &Effort, link: &Link, tunnel: &mut NegotiatedTunnel, name: &str) -> Row {
    let bytes = effort.bytes(BYTES);
    let clocks = Clocks::new(tunnel.processes());
    let contest = Contest::run(
        effort.turns(),
        vec![
            Contender::new("pve-tunnel", || {
                let Ends { source, sink } = tunnel.connect();
                load::measured_transfer(&source, &sink, bytes, &clocks)
            }),
            Contender::new(PEER, || {
                let (source, sink) = bare(link);
                Sample::of(rate(bytes, load::transfer(&source, &sink, bytes)))
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

/// A TCP connection with the system's settings.
fn bare(link: &Link) -> (TcpStream, TcpStream) {
    let listener = link
        .far()
        .execute(|| TcpListener::bind((TARGET_ADDRESSES[0], 0)).unwrap());
    let source = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (source, listener.accept().unwrap().0)
}
