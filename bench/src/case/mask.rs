//! Masking in place.

use crate::measure::{Contender, Contest, Effort, Goal, Row, Rows, Sample, Title, rate};
use pve_tunnel::websocket::mask;
use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The duration of one turn.
const TURN: Duration = Duration::from_millis(20);

const OURS: &str = "pve-tunnel";
const MEMCPY: &str = "memcpy";

/// Both Rust peers use the same routine. That of tungstenite is not public.
const PEER: &str = "fastwebsockets";

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
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
        let (aligned, odd, memcpy) = match length {
            0..=125 => (Some(1.0), Some(1.0), None),
            126..=0xffff => (None, Some(1.25), None),
            0x1_0000..=0x10_0000 => (Some(1.0), Some(1.25), Some(1.2)),
            _ => (None, None, None),
        };
        let title = Title {
            case: "mask",
            name: &format!("{name}, aligned"),
            unit: "MB/s",
        };
        rows.push(against_peer(effort, title, length, 0, aligned));
        rows.push(against_memcpy(effort, title, length, memcpy));
        for off in 1..8 {
            let name = &format!("{name}, off by {off}");
            let title = Title { name, ..title };
            rows.push(against_peer(effort, title, length, off, odd));
        }
    }
    Ok(())
}

/// Masks buffers that start `off` bytes after a multiple of 64, with the key at phase `off` modulo
/// 4.
fn against_peer(
    effort: &Effort,
    title: Title,
    length: usize,
    off: usize,
    least: Option<f64>,
) -> Row {
    let phase = off % 4;
    let mut key = KEY;
    key.rotate_left(phase);
    // Both contenders mask the same buffers: the address makes a difference of some percent.
    let buffers = RefCell::new(Buffers::new(off, length));
    let contenders = vec![
        Contender::new(OURS, || timed(&buffers, |data| mask(data, KEY, phase))),
        Contender::new(PEER, || {
            timed(&buffers, |data| fastwebsockets::unmask(data, key))
        }),
    ];
    let contest = Contest::run(effort.turns(), contenders);
    contest.row(title, PEER, least.map(Goal::AtLeast), |sample| sample.value)
}

/// A contest separate from the other peer's: memcpy uses the processor's widest vectors, and the
/// clock rate takes some milliseconds to recover from them.
fn against_memcpy(effort: &Effort, title: Title, length: usize, least: Option<f64>) -> Row {
    let buffers = RefCell::new(Buffers::new(0, length));
    let original = testing::pattern(length);
    let contenders = vec![
        Contender::new(OURS, || timed(&buffers, |data| mask(data, KEY, 0))),
        Contender::new(MEMCPY, || {
            timed(&buffers, |data| data.copy_from_slice(black_box(&original)))
        }),
    ];
    let contest = Contest::run(effort.turns(), contenders);
    contest.row(title, MEMCPY, least.map(Goal::AtLeast), |sample| {
        sample.value
    })
}

/// Calls `work` with every buffer, again and again for one turn.
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

/// Buffers of one length that start `off` bytes after a multiple of 64.
///
/// There are many short ones. No program masks a frame twice in a row, and a second pass would wait
/// for the stores of the first. All of them together fit into the first-level cache.
struct Buffers {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    length: usize,
}

impl Buffers {
    fn new(off: usize, length: usize) -> Self {
        let stride = (off + length).next_multiple_of(64);
        let count = ((16 << 10) / stride).max(1);
        let bytes = testing::pattern(stride * count + 64);
        let first = bytes.as_ptr().align_offset(64) + off;
        Self {
            starts: (0..count).map(|number| first + number * stride).collect(),
            bytes,
            length,
        }
    }

    /// The total size in bytes.
    fn size(&self) -> usize {
        self.starts.len() * self.length
    }

    fn each(&mut self, work: impl Fn(&mut [u8])) {
        for start in &self.starts {
            work(black_box(&mut self.bytes[*start..][..self.length]));
        }
    }
}
