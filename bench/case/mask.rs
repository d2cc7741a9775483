//! Masking in place.

use crate::measure::{Contender, Contest, Effort, Goal, Row, Sample, Title, rate};
use pve_tunnel::websocket::mask;
use std::cell::RefCell;
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
        let goal = match length {
            16..=125 => Some(Goal::AtLeast(1.0)),
            126..=0x10_0000 => Some(Goal::AtLeast(1.25)),
            _ => None,
        };
        for off in 1..8 {
            let name = format!("{name}, off by {off}");
            contest(effort, &name, length, off, (goal, None), &mut rows);
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
    // The same bytes for all: where in memory they are makes a difference of some per cent.
    let buffers = RefCell::new(Buffers::new(off, length));
    let original = crate::support::pattern(length);
    let contest = Contest::hold(
        effort.runs(),
        vec![
            Contender::new("pve-tunnel", || {
                timed(&buffers, |data| mask(data, KEY, phase))
            }),
            Contender::new(PEER, || {
                timed(&buffers, |data| fastwebsockets::unmask(data, key))
            }),
            Contender::new("memcpy", || {
                timed(&buffers, |data| data.copy_from_slice(black_box(&original)))
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
fn timed(buffers: &RefCell<Buffers>, work: impl Fn(&mut [u8])) -> Sample {
    let mut buffers = buffers.borrow_mut();
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < TURN {
        for _ in 0..(1 << 20) / buffers.size() + 1 {
            buffers.each(&work);
            bytes += buffers.size() as u64;
        }
    }
    Sample::of(rate(bytes, started.elapsed()))
}

/// Some buffers of one length, which begin as far off a multiple of 64 as is wanted.
///
/// Short ones are many: nobody masks a frame twice in a row, and a second time at once would wait
/// for what the first has only just stored. Together they fit into the first cache.
struct Buffers {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    length: usize,
}

impl Buffers {
    fn new(off: usize, length: usize) -> Self {
        let stride = (off + length).next_multiple_of(64);
        let count = ((16 << 10) / stride).max(1);
        let bytes = crate::support::pattern(stride * count + 64);
        let first = bytes.as_ptr().align_offset(64) + off;
        Self {
            starts: (0..count).map(|number| first + number * stride).collect(),
            bytes,
            length,
        }
    }

    /// Bytes in all of them.
    fn size(&self) -> usize {
        self.starts.len() * self.length
    }

    fn each(&mut self, work: impl Fn(&mut [u8])) {
        for start in &self.starts {
            work(black_box(&mut self.bytes[*start..][..self.length]));
        }
    }
}
