//! Masking in place.

use crate::measure::{Contender, Contest, Effort, Goal, Row, Sample, Title, rate};
use pve_tunnel::websocket::mask;
use std::hint::black_box;
use std::time::{Duration, Instant};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// How long one turn takes.
const TURN: Duration = Duration::from_millis(20);

/// Both Rust peers have the same routine; tungstenite's is not public.
const PEER: &str = "fastwebsockets";

pub fn run(effort: &Effort) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (name, length) in [
        ("16 B", 16),
        ("32 B", 32),
        ("64 B", 64),
        ("100 B", 100),
        ("125 B", 125),
        ("1 KiB", 1 << 10),
        ("4 KiB", 4 << 10),
        ("64 KiB", 64 << 10),
        ("128 KiB", 128 << 10),
        ("256 KiB", 256 << 10),
        ("1 MiB", 1 << 20),
        ("16 MiB", 16 << 20),
    ] {
        let goals = match length {
            16..=125 => (Some(Goal::AtLeast(1.0)), None),
            0x1_0000..=0x10_0000 => (Some(Goal::AtLeast(1.0)), Some(Goal::AtLeast(1.2))),
            _ => (None, None),
        };
        contest(
            effort,
            &format!("{name}, aligned"),
            length,
            0,
            goals,
            &mut rows,
        );
        if length >= 1 << 10 {
            let goal = (length <= 1 << 20).then_some(Goal::AtLeast(1.25));
            for off in 1..8 {
                let name = format!("{name}, off by {off}");
                contest(effort, &name, length, off, (goal, None), &mut rows);
            }
        }
    }
    Ok(rows)
}

fn contest(
    effort: &Effort,
    name: &str,
    length: usize,
    off: usize,
    (goal, memcpy_goal): (Option<Goal>, Option<Goal>),
    rows: &mut Vec<Row>,
) {
    let phase = off % 4;
    let mut key = KEY;
    key.rotate_left(phase);
    let mut own = Aligned::new(length);
    let mut theirs = Aligned::new(length);
    let (from, mut to) = (Aligned::new(length), Aligned::new(length));
    let contest = Contest::hold(
        effort.runs(),
        vec![
            Contender::new("pve-tunnel", || {
                timed(length, || mask(black_box(own.at(off, length)), KEY, phase))
            }),
            Contender::new(PEER, || {
                timed(length, || {
                    fastwebsockets::unmask(black_box(theirs.at(off, length)), key);
                })
            }),
            Contender::new("memcpy", || {
                timed(length, || {
                    black_box(to.at(off, length)).copy_from_slice(black_box(from.get(off, length)));
                })
            }),
        ],
    );
    let title = Title {
        case: "mask",
        name,
        unit: "MB/s",
    };
    rows.push(contest.row(title, PEER, goal, |sample| sample.value));
    if off == 0 {
        rows.push(contest.row(title, "memcpy", memcpy_goal, |sample| sample.value));
    }
}

/// Does it again and again for one turn.
fn timed(length: usize, mut work: impl FnMut()) -> Sample {
    let batch = (1 << 20) / length + 1;
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < TURN {
        for _ in 0..batch {
            work();
        }
        bytes += (batch * length) as u64;
    }
    Sample::of(rate(bytes, started.elapsed()))
}

/// A buffer of which it is known where it begins.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let bytes = crate::support::pattern(length + 64 + 8);
        let start = bytes.as_ptr().align_offset(64);
        Self { bytes, start }
    }

    fn at(&mut self, off: usize, length: usize) -> &mut [u8] {
        &mut self.bytes[self.start + off..][..length]
    }

    fn get(&self, off: usize, length: usize) -> &[u8] {
        &self.bytes[self.start + off..][..length]
    }
}
