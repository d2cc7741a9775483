//! The programs at the ends of a connection: the source writes as fast as it can, the sink reads
//! and drops.

use crate::affinity::Side;
use crate::measure::{Clocks, Sample, rate};
use crate::tunnel::Ends;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{Shutdown, shutdown};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What the source writes at a time, in bytes: about as much as QEMU and `dd` do.
const PIECE: usize = 64 << 10;

/// What the source writes.
#[derive(Clone, Copy)]
pub enum Fill {
    /// Data without zeros.
    Data,
    /// A volume that is mostly empty: of each 20 MiB, the first one is data.
    Sparse,
    /// Data that Zstandard halves at its level 1.
    Halves,
}

/// The parts of a sparse volume, in bytes.
const EXTENT: u64 = 1 << 20;
const EVERY: u64 = 20 * EXTENT;

/// Moves `bytes` from the source to the sink. Returns the time from the first byte's departure to
/// the last byte's arrival. The connection stays open.
pub fn transfer<S: Sync>(source: &S, sink: &S, bytes: u64) -> Duration
where
    for<'a> &'a S: Read + Write,
{
    transfer_of(Fill::Data, source, sink, bytes)
}

/// The same, with this content.
pub fn transfer_of<S: Sync>(fill: Fill, source: &S, sink: &S, bytes: u64) -> Duration
where
    for<'a> &'a S: Read + Write,
{
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| write(source, fill, bytes));
        read(sink, bytes);
    });
    started.elapsed()
}

/// The same, as one turn of a contest: the rate in MB/s, and the CPU time of each process.
pub fn measured_transfer(
    fill: Fill,
    source: &UnixStream,
    sink: &UnixStream,
    bytes: u64,
    clocks: &Clocks,
) -> Sample {
    let (time, cpu) = clocks.cost(bytes, || transfer_of(fill, source, sink, bytes));
    Sample {
        value: rate(bytes, time),
        cpu,
    }
}

/// How many bytes arrived, and at which rate.
pub struct Arrived {
    pub bytes: u64,
    /// MB/s, after the first part of the time.
    pub rate: f64,
}

/// Moves data through all connections at once, each a source and a sink, and closes them. The rate
/// is that of the time after `start`, in which TCP's windows grow.
pub fn transfer_for<S: AsRawFd + Sync>(
    connections: &[(S, S)],
    start: Duration,
    time: Duration,
) -> Arrived
where
    for<'a> &'a S: Read + Write,
{
    transfer_for_with(connections, start, time, || ())
}

/// The same. `event` is called after `start`, and its result is dropped at the end of the time.
pub fn transfer_for_with<S: AsRawFd + Sync, T>(
    connections: &[(S, S)],
    start: Duration,
    time: Duration,
    event: impl FnOnce() -> T,
) -> Arrived
where
    for<'a> &'a S: Read + Write,
{
    let arrived = AtomicU64::new(0);
    thread::scope(|scope| {
        for (source, sink) in connections {
            scope.spawn(move || {
                let (mut source, data) = (source, testing::pattern(PIECE));
                while source.write(&data).is_ok() {}
            });
            let arrived = &arrived;
            scope.spawn(move || {
                let (mut sink, mut buffer) = (sink, vec![0; 4 * PIECE]);
                while let Ok(count @ 1..) = sink.read(&mut buffer) {
                    arrived.fetch_add(count as u64, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(start);
        let _until_the_end = event();
        let (before, started) = (arrived.load(Ordering::Relaxed), Instant::now());
        thread::sleep(time);
        let bytes = arrived.load(Ordering::Relaxed);
        let rate = rate(bytes - before, started.elapsed());
        for (source, sink) in connections {
            for end in [sink, source] {
                // Fails if the connection is already closed.
                let _ = shutdown(end.as_raw_fd(), Shutdown::Both);
            }
        }
        Arrived { bytes, rate }
    })
}

/// Writes so many bytes of this content.
pub fn write(mut to: impl Write, fill: Fill, bytes: u64) {
    let data = match fill {
        Fill::Halves => halves(),
        Fill::Data | Fill::Sparse => testing::pattern(PIECE),
    };
    let zeros = [0; PIECE];
    let mut pieces = data.chunks_exact(PIECE).cycle();
    let mut left = bytes;
    while left > 0 {
        let count = left.min(PIECE as u64);
        let piece = match fill {
            Fill::Sparse if (bytes - left) % EVERY >= EXTENT => &zeros[..],
            // There is at least one.
            Fill::Sparse | Fill::Data | Fill::Halves => pieces.next().unwrap(),
        };
        to.write_all(&piece[..count as usize]).unwrap();
        left -= count;
    }
}

/// Some MiB of random bytes and zeros in turn.
fn halves() -> Vec<u8> {
    const LENGTH: usize = 64 * PIECE;
    const RANDOM: usize = 230;
    let mut data = vec![0; LENGTH];
    let mut random = File::open("/dev/urandom").unwrap();
    random.read_exact(&mut data).unwrap();
    for group in data.chunks_mut(2 * RANDOM + 4) {
        let zeros = group.len().min(RANDOM);
        group[..zeros].fill(0);
    }
    data
}

fn read(mut from: impl Read, bytes: u64) {
    let mut buffer = vec![0; 4 * PIECE];
    let mut left = bytes;
    while left > 0 {
        let most = left.min(buffer.len() as u64) as usize;
        let count = match from.read(&mut buffer[..most]) {
            // A socket with a time limit is not read again by the kernel after a process was suspended.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.unwrap(),
        };
        assert!(count > 0, "the stream ended {left} bytes early");
        left -= count as u64;
    }
}

/// Sends a request of `size` bytes and waits until the sink has returned it, `rounds` times.
/// Returns the time of each round trip. Source and sink run on their node's core.
pub fn round_trips(
    source: &UnixStream,
    sink: &UnixStream,
    size: usize,
    rounds: usize,
) -> Vec<Duration> {
    thread::scope(|scope| {
        scope.spawn(|| {
            Side::Target.pin_this_thread();
            let (mut sink, mut request) = (sink, vec![0; size]);
            for _ in 0..rounds {
                sink.read_exact(&mut request).unwrap();
                sink.write_all(&request).unwrap();
            }
        });
        let requests = scope.spawn(|| {
            Side::Source.pin_this_thread();
            let (mut source, mut bytes) = (source, testing::pattern(size));
            let round_trip = |_| {
                let started = Instant::now();
                source.write_all(&bytes).unwrap();
                source.read_exact(&mut bytes).unwrap();
                started.elapsed()
            };
            (0..rounds).map(round_trip).collect()
        });
        requests.join().unwrap()
    })
}

/// Moves bytes through all connections at once for `time`. Returns the number of bytes that arrived
/// on each of them.
///
/// One thread writes to all sources and one reads from all sinks. So the number of connections does
/// not change how the kernel divides its cores between the load and the tunnel.
pub fn transfer_through_all(connections: &[Ends], time: Duration) -> Vec<u64> {
    let sources: Vec<_> = connections.iter().map(|ends| &ends.source).collect();
    let sinks: Vec<_> = connections.iter().map(|ends| &ends.sink).collect();
    thread::scope(|scope| {
        scope.spawn(|| write_to_all(&sources, time));
        read_from_all(&sinks, time)
    })
}

/// The last byte of each stream. All others are zero.
const LAST: u8 = 1;

fn write_to_all(sources: &[&UnixStream], time: Duration) {
    let started = Instant::now();
    for_each_ready(sources, EpollFlags::EPOLLOUT, |_, mut source| {
        let is_last = started.elapsed() >= time;
        let bytes: &[u8] = if is_last { &[LAST] } else { &[0; PIECE] };
        source.write_all(bytes).unwrap();
        is_last
    });
}

/// Reads every stream to its last byte, and counts the bytes that arrive within `time`.
fn read_from_all(sinks: &[&UnixStream], time: Duration) -> Vec<u64> {
    let (mut read, mut piece) = (vec![0; sinks.len()], vec![0; PIECE]);
    let started = Instant::now();
    for_each_ready(sinks, EpollFlags::EPOLLIN, |index, mut sink| {
        let count = sink.read(&mut piece).unwrap();
        assert!(count > 0, "a stream ended early");
        if started.elapsed() < time {
            read[index] += count as u64;
        }
        piece[count - 1] == LAST
    });
    read
}

/// Calls `work` with each stream that is ready, until it has returned true for every stream.
fn for_each_ready(
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
