//! The direct planes over a link with a rate and a delay.
//!
//! This case shows whether the TCP windows grow with the round-trip time: at 40 ms a link of 1
//! Gbit/s holds 5 MB. Each turn uses a new connection, whose windows start at the kernel's default
//! size, and lasts long enough for them to grow. All connections use CUBIC.

use crate::load;
use crate::measure::{Clocks, Contender, Contest, Effort, Goal, Row, Rows, Sample, Title, rate};
use crate::tunnel::{Ends, Tunnel};
use std::thread;
use std::time::Duration;
use testing::link::Link;
use testing::namespace;
use testing::seam::NegotiatedTunnel;

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
        let mut tunnel = link.tunnel(plane);
        for round_trip in [0, 10, 40] {
            link.set_round_trip(Duration::from_millis(round_trip));
            let name = format!("{plane}, {round_trip} ms");
            rows.push(contest(effort, &link, &mut tunnel, &name));
        }
        link.set_round_trip(Duration::ZERO);
    }
    Ok(())
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
                let (source, sink) = link.connect();
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
