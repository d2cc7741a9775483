//! The programs at both ends of a path: one writes as fast as it is let, the other reads and drops.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

/// What the source writes at once: what QEMU and `dd` do is near it.
const PIECE: usize = 64 << 10;

/// Moves `bytes` from one end to the other; the time from the first byte's leaving to the last
/// one's arrival. The connection stays open for more.
pub fn stream<S: Sync>(source: &S, sink: &S, bytes: u64) -> Duration
where
    for<'a> &'a S: Read + Write,
{
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| write(source, bytes));
        read(sink, bytes);
    });
    started.elapsed()
}

/// Writes that many bytes.
pub fn write(mut to: impl Write, bytes: u64) {
    let data = crate::support::pattern(PIECE);
    let mut left = bytes;
    while left > 0 {
        let count = left.min(PIECE as u64);
        to.write_all(&data[..count as usize]).unwrap();
        left -= count;
    }
}

/// Reads that many bytes.
pub fn read(mut from: impl Read, bytes: u64) {
    let mut buffer = vec![0; 4 * PIECE];
    let mut left = bytes;
    while left > 0 {
        let most = left.min(buffer.len() as u64) as usize;
        let count = from.read(&mut buffer[..most]).unwrap();
        assert!(count > 0, "the stream ended {left} bytes early");
        left -= count as u64;
    }
}
