//! The programs at both ends of a path: one writes as fast as it is let, the other reads and drops.

use crate::cores::Node;
use crate::measure::{Clocks, Sample, rate};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
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
    let data = testing::pattern(PIECE);
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

/// Sends a request of `size` bytes and waits for its echo, again and again; how long each took. The
/// asker is on the source, the echo on the target.
pub fn ask(asker: &UnixStream, echo: &UnixStream, size: usize, rounds: usize) -> Vec<Duration> {
    thread::scope(|scope| {
        scope.spawn(|| {
            Node::Target.enter();
            let (mut echo, mut request) = (echo, vec![0; size]);
            for _ in 0..rounds {
                echo.read_exact(&mut request).unwrap();
                echo.write_all(&request).unwrap();
            }
        });
        let asking = scope.spawn(|| {
            Node::Source.enter();
            let (mut asker, mut bytes) = (asker, testing::pattern(size));
            let round = |_| {
                let asked = Instant::now();
                asker.write_all(&bytes).unwrap();
                asker.read_exact(&mut bytes).unwrap();
                asked.elapsed()
            };
            (0..rounds).map(round).collect()
        });
        asking.join().unwrap()
    })
}

/// Moves bytes over all of these connections at once, for so long; how many came out of each in this
/// time. One thread is all sources and one is all sinks: how the system shares its cores between the
/// load and what is measured does not depend on how many there are.
pub fn share(connections: &[(UnixStream, UnixStream)], time: Duration) -> Vec<u64> {
    let (sources, sinks): (Vec<_>, Vec<_>) = connections.iter().map(|(a, b)| (a, b)).unzip();
    thread::scope(|scope| {
        scope.spawn(|| write_in_turn(&sources, time));
        read_in_turn(&sinks, time)
    })
}

/// What the last byte of all is; every other is a zero.
const LAST: u8 = 1;

fn write_in_turn(sources: &[&UnixStream], time: Duration) {
    let started = Instant::now();
    in_turn(sources, EpollFlags::EPOLLOUT, |_, mut source| {
        let over = started.elapsed() >= time;
        let bytes: &[u8] = if over { &[LAST] } else { &[0; PIECE] };
        source.write_all(bytes).unwrap();
        over
    });
}

/// Reads everything, and counts what comes in this time.
fn read_in_turn(sinks: &[&UnixStream], time: Duration) -> Vec<u64> {
    let (mut read, mut piece) = (vec![0; sinks.len()], vec![0; PIECE]);
    let started = Instant::now();
    in_turn(sinks, EpollFlags::EPOLLIN, |index, mut sink| {
        let count = sink.read(&mut piece).unwrap();
        assert!(count > 0, "a stream ended early");
        if started.elapsed() < time {
            read[index] += count as u64;
        }
        piece[count - 1] == LAST
    });
    read
}

/// Does it with every stream that is ready, again and again until it says that it was the last time.
fn in_turn(
    streams: &[&UnixStream],
    ready: EpollFlags,
    mut work: impl FnMut(usize, &UnixStream) -> bool,
) {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    for (index, stream) in streams.iter().enumerate() {
        let event = EpollEvent::new(ready, index as u64);
        epoll.add(stream, event).unwrap();
    }
    let mut events = vec![EpollEvent::empty(); streams.len()];
    let mut left = streams.len();
    while left > 0 {
        let count = epoll.wait(&mut events, EpollTimeout::NONE).unwrap();
        for event in &events[..count] {
            let index = event.data() as usize;
            if work(index, streams[index]) {
                epoll.delete(streams[index]).unwrap();
                left -= 1;
            }
        }
    }
}
