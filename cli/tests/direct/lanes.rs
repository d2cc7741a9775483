//! Streams over several connections.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use testing::breaker::{Break, Breaker};
use testing::namespace::in_namespace;
use testing::seam::{NegotiatedTunnel, Seam, plane_request_with, program};
use testing::stream::{exchange_bytes, expect_write_failure, write_until_failure};
use testing::{pattern, read_to_end, role, signal, wait_until, write_in_pieces};

/// More bytes than all buffers in the path hold.
pub(crate) const LENGTH: usize = 64 << 20;

pub(crate) const KINDS: [(&str, &str); 2] = [("secure", "tls"), ("insecure", "tcp")];

/// So many lanes for each stream, whether or not they help.
pub(crate) fn several(lanes: u16) -> Value {
    json!({ "lanes": lanes, "first_lanes": lanes })
}

#[test]
fn several_lanes_transfer_data_in_both_directions_with_half_close() {
    for (kind, plane) in KINDS {
        let request = plane_request_with(kind, &several(4));
        let mut tunnel = NegotiatedTunnel::on_plane(plane, Seam::default(), &request);
        assert_eq!(tunnel.answer["direct"]["protocol"], 2, "{}", tunnel.answer);
        let path = program(tunnel.directory.path(), |mut stream| {
            thread::spawn(move || {
                let (data, end) = read_to_end(&stream);
                end.unwrap();
                assert!(data == pattern(LENGTH), "{} bytes", data.len());
                // The other direction starts only after the end of this one.
                write_in_pieces(&mut stream, &pattern(LENGTH)).unwrap();
            });
        });
        let local = tunnel
            .connector
            .open(&tunnel.target, path.to_str().unwrap());
        write_in_pieces(&local, &pattern(LENGTH)).unwrap();
        local.shutdown(Shutdown::Write).unwrap();
        let (data, end) = read_to_end(&local);
        end.unwrap();
        assert!(data == pattern(LENGTH), "{plane}: {} bytes", data.len());

        let seam = tunnel.seam.clone();
        let (record, ended) = tunnel.finish();
        assert_eq!(record["sent"], LENGTH, "{record}");
        assert_eq!(record["received"], LENGTH, "{record}");
        assert_eq!(record["failed"], 0, "{record}\n{}", ended.log);
        let (_, log) = seam.take_listener().end();
        for log in [ended.log, log] {
            assert!(!log.contains("failed: "), "{log}");
        }
    }
}

/// Threads with a quota of CPU time often lose their cores. So do those of a process that is stopped.
#[test]
fn threads_that_lose_their_cores_move_data_through_pipes() {
    for (kind, plane) in KINDS {
        let seam = Seam::with_listeners(role::listeners());
        let request = plane_request_with(kind, &several(3));
        let mut tunnel = NegotiatedTunnel::on_plane(plane, seam, &request);
        let (source, target) = tunnel.pair();
        let processes = [tunnel.connector.child.id(), tunnel.seam.listener_pid()];
        // Both before the first data: a busy machine may interrupt the second one earlier.
        let before = processes.map(pipes);
        let is_moved = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for (process, before) in processes.into_iter().zip(before) {
                    wait_until("pipes are used", || {
                        signal("STOP", process);
                        thread::sleep(Duration::from_millis(30));
                        signal("CONT", process);
                        thread::sleep(Duration::from_millis(10));
                        pipes(process) > before
                    });
                }
                is_moved.store(true, Ordering::Relaxed);
            });
            move_pieces(&source, &target, 64, &is_moved);
        });
        drop((source, target));
        let (record, ended) = tunnel.finish();
        assert_eq!(record["failed"], 0, "{record}\n{}", ended.log);
    }
}

/// The ends of pipes that a process has open.
fn pipes(process: u32) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    // One may have been closed.
    let links = descriptors.filter_map(|each| std::fs::read_link(each.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().starts_with("pipe:"))
        .count()
}

/// Moves pieces of 1 MiB until the condition holds, and then so many more. Gives up when it has moved as
/// many as take a minute or more.
pub(crate) fn move_pieces(
    mut from: &UnixStream,
    mut to: &UnixStream,
    more: usize,
    condition: &AtomicBool,
) {
    const MOST: usize = 128 << 10;
    let piece = pattern(1 << 20);
    let total = AtomicUsize::new(MOST);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while number < total.load(Ordering::Acquire) {
                if condition.load(Ordering::Relaxed) {
                    let known = total.load(Ordering::Relaxed).min(number + more);
                    total.store(known, Ordering::Release);
                }
                from.write_all(&piece).unwrap();
                number += 1;
            }
        });
        let (mut number, mut received) = (0, vec![0; piece.len()]);
        while number < total.load(Ordering::Acquire) {
            to.read_exact(&mut received).unwrap();
            assert!(received == piece, "piece {number} differs");
            number += 1;
        }
    });
}

/// The program closes its socket while the other one still writes to it.
#[test]
fn a_program_that_closes_too_early_fails_the_stream_after_its_own_data() {
    const LENGTH: usize = 8 << 20;
    for (kind, plane) in KINDS {
        let request = plane_request_with(kind, &several(3));
        let mut tunnel = NegotiatedTunnel::on_plane(plane, Seam::default(), &request);
        let (source, target) = tunnel.pair();
        exchange_bytes(&source, &target);
        let writer = write_until_failure(&target);
        (&source).write_all(&pattern(LENGTH)).unwrap();
        let closed = Instant::now();
        drop(source);
        // The kernel reports the failure once: to the writer or to the reader.
        let data = read_to_end(&target).0;
        assert!(data == pattern(LENGTH), "{plane}: {} bytes", data.len());
        // The failure is announced. Without that, the target would wait for the dead-peer limit.
        let took = expect_write_failure(writer) - closed;
        assert!(took < Duration::from_secs(30), "{plane}: {took:?}");
        let (record, ended) = tunnel.finish();
        assert_eq!(record["failed"], 1, "{record}");
        let expected =
            "FAILED: the local program closed its socket while data was still on its way to it";
        assert!(ended.log.contains(expected), "{}", ended.log);
    }
}

/// A program may answer with a single byte, which is zero.
#[test]
fn few_zeros_are_sent_as_they_are() {
    in_namespace(|| {
        let request = plane_request_with("secure", &several(2));
        let mut tunnel = NegotiatedTunnel::on_plane("tls", Seam::default(), &request);
        let (mut source, mut target) = tunnel.pair();
        for count in [1, 8, 511] {
            let mut received = vec![1; count];
            source.write_all(&vec![0; count]).unwrap();
            target.read_exact(&mut received).unwrap();
            assert_eq!(received, vec![0; count]);
        }
        drop((source, target));
        let (record, ended) = tunnel.finish();
        assert_eq!(record["sent"], 520, "{record}\n{}", ended.log);
        assert_eq!(record["lanes"]["zeros"], 0, "{record}");
    });
}

/// As over NBD, where each request has a header.
#[test]
fn zeros_between_headers_are_not_sent_and_arrive() {
    const REQUESTS: usize = 96;
    const ZEROS: usize = 256 << 10;
    for (kind, plane) in KINDS {
        in_namespace(move || {
            let breaker = Breaker::default();
            let request = plane_request_with(kind, &several(3));
            let mut tunnel = NegotiatedTunnel::on_plane(plane, breaker.seam(), &request);
            let (source, target) = tunnel.pair();
            let expected = [&pattern(28)[..], &[0; ZEROS]].concat().repeat(REQUESTS);
            for (from, to) in [(&source, &target), (&target, &source)] {
                thread::scope(|scope| {
                    let reader = scope.spawn(|| read_to_end(to));
                    write_in_pieces(from, &expected).unwrap();
                    from.shutdown(Shutdown::Write).unwrap();
                    let (data, end) = reader.join().unwrap();
                    end.unwrap();
                    assert!(data == expected, "{plane}: {} bytes", data.len());
                });
            }
            drop((source, target));
            let (record, ended) = tunnel.finish();
            assert_eq!(record["failed"], 0, "{record}\n{}", ended.log);
            let (passed, sent) = (breaker.bytes(), 2 * expected.len() as u64);
            assert!(passed < sent / 4, "{plane}: {passed} bytes of {sent}");
        });
    }
}

/// Zeros between data, in both directions, also if every connection breaks meanwhile.
#[test]
fn zeros_are_not_sent_and_arrive() {
    const ZEROS: usize = 48 << 20;
    const DATA: usize = 1 << 20;
    let stream = |seed| {
        let data = pattern(DATA + seed);
        [
            &data,
            &vec![0; ZEROS][..],
            &data,
            &vec![0; ZEROS - 1],
            &data,
        ]
        .concat()
    };
    for (kind, plane) in KINDS {
        for breaks in [false, true] {
            in_namespace(move || {
                let breaker = Breaker::default();
                let request = plane_request_with(kind, &several(3));
                let mut tunnel = NegotiatedTunnel::on_plane(plane, breaker.seam(), &request);
                let (source, target) = tunnel.pair();
                let move_all = |from: &UnixStream, to: &UnixStream, seed| {
                    thread::scope(|scope| {
                        let reader = scope.spawn(|| read_to_end(to));
                        let expected = stream(seed);
                        let (first, rest) = expected.split_at(ZEROS);
                        write_in_pieces(from, first).unwrap();
                        if breaks {
                            breaker.break_some(Break::Reset, |index| index > 0);
                        }
                        write_in_pieces(from, rest).unwrap();
                        from.shutdown(Shutdown::Write).unwrap();
                        let (data, end) = reader.join().unwrap();
                        end.unwrap();
                        assert!(data == expected, "{plane} {breaks}: {} bytes", data.len());
                    });
                };
                move_all(&source, &target, 0);
                move_all(&target, &source, 1);
                let length = stream(0).len();
                drop((source, target));
                let (record, ended) = tunnel.finish();
                assert_eq!(record["sent"], length, "{record}\n{}", ended.log);
                assert_eq!(record["failed"], 0, "{record}\n{}", ended.log);
                let zeros = record["lanes"]["zeros"].as_u64().unwrap();
                assert!(zeros > ZEROS as u64 * 19 / 10, "{record}");
                let passed = breaker.bytes();
                assert!(
                    passed < ZEROS as u64 / 2,
                    "{plane}: {passed} bytes of {length}"
                );
                if breaks {
                    assert!(record["lanes"]["reopened"].as_u64() > Some(0), "{record}");
                    let expected = " opened again, ";
                    assert!(ended.log.contains(expected), "{}", ended.log);
                }
                let expected = " of zeros not sent";
                assert!(ended.log.contains(expected), "{}", ended.log);
            });
        }
    }
}
