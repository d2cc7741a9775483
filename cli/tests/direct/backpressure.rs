//! A reader that is slower than its writer: everybody on the way waits, and nobody's memory grows.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use testing::seam::{NegotiatedTunnel, Seam, plane_request};
use testing::stream::exchange_bytes;
use testing::{pattern, peak_memory, role};

/// What the slow reader reads in a second, in bytes, and in one go.
const RATE: usize = 10_000_000;
const PIECE: usize = 500_000;

/// How long it is slow.
const SLOW: Duration = Duration::from_secs(12);

/// What the writer would like to write, in bytes: more than anybody has read when the time is over.
const MUCH: usize = 2 << 30;

/// How much a process may grow, in KiB.
const GROWTH: u64 = 8 << 10;

/// After how many bytes [`pattern`] begins again.
const PERIOD: usize = 65_521;

#[test]
fn a_slow_reader_slows_its_writer_and_no_process_grows() {
    let planes = [("secure", "tls"), ("insecure", "tcp")].map(|(kind, plane)| {
        thread::spawn(move || {
            let seam = Seam::with_listeners(role::listeners());
            let mut tunnel = NegotiatedTunnel::on_plane(plane, seam, &plane_request(kind));
            let (source, target) = tunnel.pair();
            exchange_bytes(&source, &target);
            let pids = [tunnel.connector.child.id(), tunnel.seam.listener_pid()];
            let before = pids.map(peak_memory);

            // Both ways at once.
            let until = Instant::now() + SLOW;
            let ends = [(&source, &target), (&target, &source)].map(|(from, to)| {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let writer = thread::spawn(move || writes(&from, until));
                (writer, thread::spawn(move || reads_slowly(&to, until)))
            });
            for (writer, reader) in ends {
                let (written, read) = (writer.join().unwrap(), reader.join().unwrap());
                assert_eq!(written, read, "{plane}");
                let slowest = RATE * usize::try_from(SLOW.as_secs()).unwrap() / 2;
                assert!(read > slowest, "{plane}: {read} bytes");
                assert!(read < MUCH, "{plane}: nobody slowed the writer");
            }
            for (pid, before) in pids.into_iter().zip(before) {
                let grown = peak_memory(pid) - before;
                assert!(grown < GROWTH, "{plane}: {grown} KiB");
            }
            drop((source, target));
            let (record, _) = tunnel.finish();
            assert_eq!(record["failed"], 0, "{record}");
        })
    });
    for plane in planes {
        plane.join().unwrap();
    }
}

/// Writes as much as it can until the time is over; how much that was.
fn writes(mut stream: &UnixStream, until: Instant) -> usize {
    let data = pattern(PERIOD);
    let mut written = 0;
    while written < MUCH && Instant::now() < until {
        stream.write_all(&data).unwrap();
        written += PERIOD;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    written
}

/// Reads at its rate until the time is over, then the rest; how much that was.
fn reads_slowly(mut stream: &UnixStream, until: Instant) -> usize {
    let expected = pattern(PERIOD + PIECE);
    let mut buffer = vec![0; PIECE];
    let started = Instant::now();
    let mut read = 0;
    loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            return read;
        }
        let start = read % PERIOD;
        assert!(
            buffer[..count] == expected[start..start + count],
            "after {read} bytes"
        );
        read += count;
        // Its rate is what this is about.
        let due = started + Duration::from_secs_f64(read as f64 / RATE as f64);
        let pause = due.min(until).saturating_duration_since(Instant::now());
        sleep(pause);
    }
}
