//! Compressed streams, compared with one lane that sends data as it is: where the network is slow, and
//! where it is faster than a core compresses.

use crate::connection::Connection;
use crate::load::Fill;
use crate::measure::{Contender, Contest, Effort, Goal, Rows, Title};
use crate::network::with_link;
use crate::plane;
use serde_json::{Value, json};
use std::time::Duration;
use testing::seam::NegotiatedTunnel;

/// The peer.
const PLAIN: &str = "as it is";

/// Bytes of a turn at 100 Mbit/s, and on loopback.
const SLOW_BYTES: u64 = 128 << 20;
const FAST_BYTES: u64 = 4 << 30;

/// 100 Mbit/s, in bytes per second.
const SLOW: u64 = 12_500_000;

/// Each turn over the slow link lasts long, so this case has fewer than others.
const TURNS: usize = 3;

/// The requests. Both use protocol 2, and each stream then gets one lane.
fn requests() -> [(&'static str, Value); 2] {
    let compressed = json!({ "compression": "zstd" });
    let plain = json!({ "lanes": 2 });
    [("zstd", compressed), (PLAIN, plain)]
}

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    let tunnel = |request: Value| plane::with_fields("tls", &request);
    let bytes = effort.bytes(FAST_BYTES);
    compare("tls, loopback", 0.97, effort.turns(), bytes, rows, tunnel);
    with_link(|link| {
        link.set_rate(SLOW);
        link.set_round_trip(Duration::from_millis(10));
        let tunnel = |request: Value| link.tunnel_with("tls", &request, json!({}));
        let (turns, bytes) = (effort.turns().min(TURNS), effort.bytes(SLOW_BYTES));
        compare("tls, 100 Mbit/s", 1.7, turns, bytes, rows, tunnel);
        Ok(())
    })
}

/// Data that Zstandard halves.
fn compare(
    name: &str,
    goal: f64,
    turns: usize,
    bytes: u64,
    rows: &mut Rows,
    tunnel: impl Fn(Value) -> NegotiatedTunnel,
) {
    let contenders = requests().map(|(name, request)| {
        let connection = Connection::through(tunnel(request).with_lanes(1));
        Contender::new(name, move || connection.transfer_of(Fill::Halves, bytes))
    });
    let contest = Contest::run(turns, contenders.into());
    let title = Title {
        case: "compression",
        name,
        unit: "MB/s",
    };
    let goal = Some(Goal::AtLeast(goal));
    rows.push(contest.row(title, PLAIN, goal, |sample| sample.value));
}
