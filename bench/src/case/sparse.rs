//! A volume of which one part in 20 is data, over 1 Gbit/s and a round trip of 10 ms: lanes compared
//! with one connection.
//!
//! It moves as a stream, as a volume does offline, and as the disk of a guest, which QEMU mirrors over
//! NBD. QEMU sends no holes over NBD, so that lanes save only zeros that are stored.

use crate::connection::Connection;
use crate::guest::{Disk, Setup, Transport};
use crate::load::Fill;
use crate::measure::{Contender, Contest, Effort, Goal, Rows, Sample, Title};
use crate::network::with_link;
use crate::{output, qemu};
use serde_json::json;
use std::time::Duration;
use testing::link::Link;
use testing::seam::NegotiatedTunnel;

/// The peer.
const ONE: &str = "one connection";

/// The most lanes of a stream.
const LANES: u16 = 8;

const ROUND_TRIP: Duration = Duration::from_millis(10);

/// The size of the volume, in bytes.
const VOLUME: u64 = 1 << 30;

const TURNS: usize = 5;

/// Disks that QEMU mirrors: the name, the content, and the goal.
const DISKS: [(&str, Disk, Option<Goal>); 2] = [
    ("NBD, stored zeros", Disk::Zeros, None),
    ("NBD, holes", Disk::Holes, None),
];

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    with_link(|link| {
        link.set_round_trip(ROUND_TRIP);
        let bytes = effort.bytes(VOLUME);
        let goal = Some(Goal::AtLeast(8.0));
        contest(effort, "offline", goal, rows, |lanes| {
            let connection = Connection::through(tunnel(link, lanes));
            move || connection.transfer_of(Fill::Sparse, bytes)
        });
        if let Err(reason) = qemu::require() {
            output::line(format_args!("  skipped: NBD: {reason}"));
            return Ok(());
        }
        for (name, disk, goal) in DISKS {
            let setup = Setup::of_disk(bytes, disk);
            let setup = &setup;
            contest(effort, name, goal, rows, |lanes| {
                let mut transport = Transport::Direct(Box::new(tunnel(link, lanes)));
                move || setup.mirror(&mut transport, true)
            });
        }
        Ok(())
    })
}

/// A tunnel whose streams have so many lanes at most.
fn tunnel(link: &Link, lanes: u16) -> NegotiatedTunnel {
    link.tunnel_with("tls", &json!({ "lanes": lanes }), json!({}))
}

/// Compares lanes with one connection. `start` returns the function that moves the volume once over so
/// many lanes.
fn contest<F: FnMut() -> Sample>(
    effort: &Effort,
    name: &str,
    goal: Option<Goal>,
    rows: &mut Rows,
    start: impl Fn(u16) -> F,
) {
    let contenders = vec![
        Contender::new("lanes", start(LANES)),
        Contender::new(ONE, start(1)),
    ];
    let contest = Contest::run(effort.turns().min(TURNS), contenders);
    let name = format!("tls, {name}");
    let title = Title {
        case: "sparse",
        name: &name,
        unit: "MB/s",
    };
    rows.push(contest.row(title, ONE, goal, |sample| sample.value));
}
