//! Decoding and encoding of streams of frames.
//!
//! The case measures what happens to a payload between two system calls, including the copy that
//! one of them makes. Decoding starts with a read, here from a stream in memory and in pieces of
//! various sizes, and ends with a payload that can be written. Encoding starts with the read of a
//! payload, here from a buffer, and ends with the write of its frame, which costs nothing here.
//! Each contender may keep buffers from one frame to the next, and may deliver and write pieces of
//! any size.

mod contender;
mod decode;
mod encode;
mod stream;

use crate::measure::{Contender, Contest, Effort, Goal, Rows, Sample, Title, rate};
use contender::{FASTWEBSOCKETS, PAYLOAD, Step, TUNGSTENITE};
use pve_tunnel::websocket::Role;
use std::time::{Duration, Instant};
use stream::Reads;

/// The duration of one turn.
const TURN: Duration = Duration::from_millis(20);

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    for (size, length) in [
        ("4 KiB", 4 << 10),
        ("16 KiB", 16 << 10),
        ("64 KiB", 64 << 10),
        ("128 KiB", 128 << 10),
    ] {
        let decoders = |role, reads| decode::contenders(role, length, reads);
        for (work, contenders) in [
            ("decode masked", decoders(Role::Server, Reads::LARGE)),
            ("decode unmasked", decoders(Role::Client, Reads::LARGE)),
            ("decode masked TLS", decoders(Role::Server, Reads::TLS)),
            ("decode unmasked TLS", decoders(Role::Client, Reads::TLS)),
            ("encode", encode::contenders(length)),
        ] {
            let turns =
                contenders.map(|(name, mut step)| Contender::new(name, move || turn(&mut step)));
            let contest = Contest::run(effort.turns(), turns.into());
            let title = Title {
                case: "frame",
                name: &format!("{work}, {size}"),
                unit: "MB/s",
            };
            for (peer, goal) in [(TUNGSTENITE, 2.0), (FASTWEBSOCKETS, 1.2)] {
                let goal = Some(Goal::AtLeast(goal));
                rows.push(contest.row(title, peer, goal, |sample| sample.value));
            }
        }
    }
    Ok(())
}

fn turn(step: &mut Step) -> Sample {
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < TURN {
        let mut batch = 0;
        while batch < PAYLOAD {
            batch += step();
        }
        bytes += batch as u64;
    }
    Sample::of(rate(bytes, started.elapsed()))
}
