//! Streams over several connections.

use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};
use testing::breaker::{Break, Breaker};
use testing::namespace::{DeadPath, in_namespace};
use testing::seam::{NegotiatedTunnel, Seam, plane_request_with, program};
use testing::stream::{exchange_bytes, expect_write_failure, write_until_failure};
use testing::{pattern, read_to_end, role, signal, wait_until, write_in_pieces};

/// More bytes than all buffers in the path hold.
const LENGTH: usize = 64 << 20;

const KINDS: [(&str, &str); 2] = [("secure", "tls"), ("insecure", "tcp")];

/// So many lanes for each stream, whether or not they help.
fn several(lanes: u16) -> Value {
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

/// When connections break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    FirstByte,
    Middle,
    LastChunk,
    AfterHalfClose,
    StalledReader,
}

/// Which connections break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    OneLane,
    EveryLane,
    /// Every lane and the heartbeat.
    All,
}

impl Which {
    /// Whether it includes a connection of this number, of which the first one is the heartbeat.
    fn includes(self, index: usize, count: usize) -> bool {
        match self {
            Self::OneLane => index > 0 && index == count - 1,
            Self::EveryLane => index > 0,
            Self::All => true,
        }
    }
}

/// Breaks connections at a certain moment, and requires that no byte is lost.
fn break_connections((kind, plane): (&str, &str), how: Break, moment: Moment, which: Which) {
    const LENGTH: usize = 24 << 20;
    let cell = format!("{plane} {how:?} {moment:?} {which:?}");
    let breaker = Breaker::default();
    let mut fields = several(4);
    fields["dead_peer_timeout"] = json!(8);
    let request = plane_request_with(kind, &fields);
    let mut tunnel = NegotiatedTunnel::on_plane(plane, breaker.seam(), &request);
    let (stalled, resume) = (
        Arc::new(AtomicBool::new(moment == Moment::StalledReader)),
        Arc::new(Barrier::new(2)),
    );
    let is_stalled = stalled.clone();
    let waiting = resume.clone();
    let begun = Arc::new(AtomicBool::new(false));
    let has_begun = begun.clone();
    let path = program(tunnel.directory.path(), move |mut stream| {
        let (is_stalled, waiting, begun) = (is_stalled.clone(), waiting.clone(), begun.clone());
        thread::spawn(move || {
            if is_stalled.load(Ordering::Relaxed) {
                waiting.wait();
            }
            stream.read_exact(&mut [0]).unwrap();
            begun.store(true, Ordering::Relaxed);
            let (data, end) = read_to_end(&stream);
            end.unwrap();
            assert!(data == pattern(LENGTH)[1..], "{} bytes", data.len());
            write_in_pieces(&mut stream, &pattern(LENGTH)).unwrap();
        });
    });
    let mut local = tunnel
        .connector
        .open(&tunnel.target, path.to_str().unwrap());
    let fail = move |breaker: &Breaker| {
        let count = breaker.count();
        breaker.break_some(how, |index| which.includes(index, count));
    };
    let data = pattern(LENGTH);
    let writer = {
        let (breaker, mut local) = (breaker.clone(), local.try_clone().unwrap());
        thread::spawn(move || {
            let cut = LENGTH - 1000;
            match moment {
                Moment::FirstByte => {
                    local.write_all(&data[..1]).unwrap();
                    wait_until("the first byte", || has_begun.load(Ordering::Relaxed));
                    fail(&breaker);
                    local.write_all(&data[1..]).unwrap();
                }
                Moment::LastChunk => {
                    local.write_all(&data[..cut]).unwrap();
                    fail(&breaker);
                    local.write_all(&data[cut..]).unwrap();
                }
                _ => local.write_all(&data).unwrap(),
            }
            local.shutdown(Shutdown::Write).unwrap();
        })
    };
    match moment {
        Moment::Middle => {
            wait_until("data moves", || breaker.bytes() > LENGTH as u64 / 2);
            fail(&breaker);
        }
        Moment::StalledReader => {
            let mut before = 0;
            wait_until("the writer is stalled", || {
                thread::sleep(Duration::from_millis(100));
                let now = breaker.bytes();
                let is_stalled = now > 1 << 20 && now == before;
                before = now;
                is_stalled
            });
            fail(&breaker);
            resume.wait();
        }
        Moment::AfterHalfClose => {
            let mut first = vec![0; 1 << 20];
            local.read_exact(&mut first).unwrap();
            fail(&breaker);
            let (rest, end) = read_to_end(&local);
            end.unwrap();
            assert!([first, rest].concat() == pattern(LENGTH), "{cell}");
        }
        Moment::FirstByte | Moment::LastChunk => {}
    }
    writer.join().unwrap();
    if moment != Moment::AfterHalfClose {
        let (data, end) = read_to_end(&local);
        end.unwrap_or_else(|error| panic!("{cell}: {error}"));
        assert!(data == pattern(LENGTH), "{cell}: {} bytes", data.len());
    }
    drop(local);
    let seam = tunnel.seam.clone();
    let (record, ended) = tunnel.finish();
    let (_, log) = seam.take_listener().end();
    assert_eq!(
        record["failed"], 0,
        "{cell}: {record}\n{}\n{log}",
        ended.log
    );
    assert_eq!(record["sent"], LENGTH, "{cell}: {record}");
    assert_eq!(record["received"], LENGTH, "{cell}: {record}");
}

fn break_at_every_moment(how: Break) {
    for kind in KINDS {
        for moment in [
            Moment::FirstByte,
            Moment::Middle,
            Moment::LastChunk,
            Moment::AfterHalfClose,
            Moment::StalledReader,
        ] {
            for which in [Which::OneLane, Which::EveryLane, Which::All] {
                in_namespace(move || break_connections(kind, how, moment, which));
            }
        }
    }
}

#[test]
fn no_byte_is_lost_if_connections_are_reset() {
    break_at_every_moment(Break::Reset);
}

#[test]
fn no_byte_is_lost_if_connections_end_without_an_announcement() {
    break_at_every_moment(Break::End);
}

/// A connection without encryption can end between two frames, as the peer would end it after the whole
/// stream. Here, the last acknowledgements are lost with it.
#[test]
fn an_end_before_the_end_of_the_stream_is_a_failure_of_the_lane() {
    for (kind, plane) in KINDS {
        in_namespace(move || {
            let breaker = Breaker::default();
            let request = plane_request_with(kind, &several(2));
            let mut tunnel = NegotiatedTunnel::on_plane(plane, breaker.seam(), &request);
            let (mut source, target) = tunnel.pair();
            let data = pattern(LENGTH);
            thread::scope(|scope| {
                scope.spawn(|| {
                    write_in_pieces(&target, &data).unwrap();
                    target.shutdown(Shutdown::Write).unwrap();
                });
                let mut received = vec![0; 1 << 20];
                source.read_exact(&mut received).unwrap();
                breaker.lose(true);
                // Until the target may not send more. Acknowledgements have an interval of half a second.
                let limit = source.read_timeout().unwrap();
                source
                    .set_read_timeout(Some(Duration::from_secs(2)))
                    .unwrap();
                let silence = source.read_to_end(&mut received).unwrap_err();
                assert_eq!(silence.kind(), ErrorKind::WouldBlock, "{plane}");
                source.set_read_timeout(limit).unwrap();
                assert!(received.len() < LENGTH, "{plane}: nothing was lost");
                breaker.lose(false);
                breaker.break_some(Break::End, |index| index > 0);
                source.read_to_end(&mut received).unwrap();
                assert!(received == data, "{plane}: {} bytes", received.len());
            });
            drop((source, target));
            let (record, ended) = tunnel.finish();
            assert_eq!(record["failed"], 0, "{record}\n{}", ended.log);
            let expected = "failed: it ended without an announcement; opening it again";
            assert!(ended.log.contains(expected), "{}", ended.log);
        });
    }
}

/// Nothing notices the dead path of one lane for a long time. The others send what it carries.
#[test]
fn a_lane_that_delivers_nothing_does_not_stop_the_stream() {
    for (kind, plane) in KINDS {
        in_namespace(move || {
            let mut fields = several(3);
            // A lane fails after a quarter of this time.
            fields["dead_peer_timeout"] = json!(600);
            let request = plane_request_with(kind, &fields);
            let mut tunnel = NegotiatedTunnel::on_plane(plane, Seam::default(), &request);
            let port = tunnel.answer["direct"]["port"].as_u64().unwrap() as u16;
            let (source, target) = tunnel.pair();
            let dropped = AtomicBool::new(false);
            let _path = thread::scope(|scope| {
                let path = scope.spawn(|| {
                    let path = DeadPath::of_busiest(|socket| socket.remote_port == port);
                    dropped.store(true, Ordering::Relaxed);
                    path
                });
                move_pieces(&source, &target, 48, &dropped);
                path.join().unwrap()
            });
            move_pieces(&target, &source, 48, &dropped);
            // Requests and answers, which fill no window.
            for _ in 0..3 {
                exchange_bytes(&source, &target);
            }
            drop((source, target));
            let (record, ended) = tunnel.finish();
            assert_eq!(record["failed"], 0, "{record}\n{}", ended.log);
            assert!(record["lanes"]["resent"].as_u64() > Some(0), "{record}");
            assert_eq!(record["lanes"]["reopened"], 0, "{record}\n{}", ended.log);
        });
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
fn move_pieces(mut from: &UnixStream, mut to: &UnixStream, more: usize, condition: &AtomicBool) {
    const MOST: usize = 64 << 10;
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
