//! The programs at both ends of a path: one writes as fast as it is let, the other reads and drops.

use crate::measure::{Clocks, Sample, rate};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Barrier;
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

/// One turn of a contest about that: how fast it was, and what it cost whom.
pub fn turn(source: &UnixStream, sink: &UnixStream, bytes: u64, clocks: &Clocks) -> Sample {
    let (time, cpu) = clocks.cost(bytes, || stream(source, sink, bytes));
    Sample {
        value: rate(bytes, time),
        cpu,
    }
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

/// Sends a request of `size` bytes and waits for its echo, again and again; how long each took.
pub fn ask(asker: &UnixStream, echo: &UnixStream, size: usize, rounds: usize) -> Vec<Duration> {
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut echo, mut request) = (echo, vec![0; size]);
            for _ in 0..rounds {
                echo.read_exact(&mut request).unwrap();
                echo.write_all(&request).unwrap();
            }
        });
        let (mut asker, mut bytes) = (asker, crate::support::pattern(size));
        let round = |_| {
            let asked = Instant::now();
            asker.write_all(&bytes).unwrap();
            asker.read_exact(&mut bytes).unwrap();
            asked.elapsed()
        };
        (0..rounds).map(round).collect()
    })
}

/// Moves bytes over all of these connections at once, for so long; how many came out of each in this
/// time.
pub fn share(connections: &[(UnixStream, UnixStream)], time: Duration) -> Vec<u64> {
    let start = Barrier::new(2 * connections.len());
    thread::scope(|scope| {
        let start = &start;
        let sinks: Vec<_> = connections
            .iter()
            .map(|(source, sink)| {
                scope.spawn(move || {
                    start.wait();
                    write_for(source, time);
                });
                scope.spawn(move || {
                    start.wait();
                    read_for(sink, time)
                })
            })
            .collect();
        sinks.into_iter().map(|sink| sink.join().unwrap()).collect()
    })
}

/// What the last byte of all is; every other is a zero.
const LAST: u8 = 1;

fn write_for(mut to: &UnixStream, time: Duration) {
    let (data, started) = (vec![0; PIECE], Instant::now());
    while started.elapsed() < time {
        to.write_all(&data).unwrap();
    }
    to.write_all(&[LAST]).unwrap();
}

/// Reads everything, and counts what comes in this time.
fn read_for(mut from: &UnixStream, time: Duration) -> u64 {
    let (mut buffer, started) = (vec![0; 4 * PIECE], Instant::now());
    let mut read = 0;
    loop {
        let count = from.read(&mut buffer).unwrap();
        assert!(count > 0, "the stream ended early");
        if started.elapsed() < time {
            read += count as u64;
        }
        if buffer[count - 1] == LAST {
            return read;
        }
    }
}
