//! A reader that is slower than its writer: every process in the path waits, and none grows.

use serde_json::json;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use testing::seam::{NegotiatedTunnel, Seam, plane_request_with};
use testing::stream::exchange_bytes;
use testing::{pattern, peak_memory, role};

/// The bytes that the slow reader reads in a second, and in one call.
const RATE: usize = 10_000_000;
const PIECE: usize = 500_000;

/// How long the reader is slow.
const SLOW: Duration = Duration::from_secs(12);

/// The most bytes that the writer sends: more than the reader has read when the time is over.
const LENGTH: usize = 2 << 30;

/// The most that a process may grow, in KiB: with one connection for a stream, and with lanes.
const GROWTHS: [(u16, u64); 2] = [(1, 8 << 10), (3, 64 << 10)];

/// The period of [`pattern`] in bytes.
const PERIOD: usize = 65_521;

#[test]
fn a_slow_reader_slows_its_writer_and_no_process_grows() {
    let cases = [("secure", "tls"), ("insecure", "tcp")]
        .into_iter()
        .flat_map(|plane| GROWTHS.map(|growth| (plane, growth)));
    let planes: Vec<_> = cases
        .map(|((kind, plane), (lanes, growth))| {
            thread::spawn(move || {
                let seam = Seam::with_listeners(role::listeners());
                let request =
                    plane_request_with(kind, &json!({ "lanes": lanes, "first_lanes": lanes }));
                let mut tunnel = NegotiatedTunnel::on_plane(plane, seam, &request);
                let (source, target) = tunnel.pair();
                exchange_bytes(&source, &target);
                let pids = [tunnel.connector.child.id(), tunnel.seam.listener_pid()];
                let before = pids.map(peak_memory);

                // Both directions at once.
                let deadline = Instant::now() + SLOW;
                let ends = [(&source, &target), (&target, &source)].map(|(from, to)| {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let writer = thread::spawn(move || write_until(&from, deadline));
                    (writer, thread::spawn(move || read_slowly(&to, deadline)))
                });
                for (writer, reader) in ends {
                    let (written, read) = (writer.join().unwrap(), reader.join().unwrap());
                    assert_eq!(written, read, "{plane}");
                    let slowest = RATE * usize::try_from(SLOW.as_secs()).unwrap() / 2;
                    assert!(read > slowest, "{plane}: {read} bytes");
                    assert!(read < LENGTH, "{plane}: the writer was not slowed");
                }
                for (pid, before) in pids.into_iter().zip(before) {
                    let grown = peak_memory(pid) - before;
                    assert!(grown < growth, "{plane}, {lanes} lanes: {grown} KiB");
                }
                drop((source, target));
                let (record, _) = tunnel.finish();
                assert_eq!(record["failed"], 0, "{record}");
            })
        })
        .collect();
    for plane in planes {
        plane.join().unwrap();
    }
}

/// Writes deadline the time is over. Returns the number of bytes.
fn write_until(mut stream: &UnixStream, deadline: Instant) -> usize {
    let data = pattern(PERIOD);
    let mut written = 0;
    while written < LENGTH && Instant::now() < deadline {
        stream.write_all(&data).unwrap();
        written += PERIOD;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    written
}

/// Reads at the given rate deadline the time is over, then the rest. Returns the number of bytes.
fn read_slowly(mut stream: &UnixStream, deadline: Instant) -> usize {
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
        // This does not wait for an event: it limits the rate.
        let due = started + Duration::from_secs_f64(read as f64 / RATE as f64);
        let pause = due.min(deadline).saturating_duration_since(Instant::now());
        sleep(pause);
    }
}
