//! Streams whose connections break go on over other ones.

use crate::lanes::{KINDS, LENGTH, move_pieces, several};
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;
use testing::breaker::{Break, Breaker};
use testing::namespace::{DeadPath, in_namespace};
use testing::seam::{NegotiatedTunnel, Seam, plane_request_with, program};
use testing::stream::exchange_bytes;
use testing::{pattern, read_to_end, wait_until, write_in_pieces};

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
            let expected = match plane {
                "tls" => "failed: it ended without an announcement; opening it again",
                _ => "failed: it ended before its stream; opening it again",
            };
            assert!(ended.log.contains(expected), "{}", ended.log);
        });
    }
}

/// The same when both ends have sent their ends of the stream, and the source's and its acknowledgement of
/// the target's are lost: such an end of a lane comes from the target only after its acknowledgement.
#[test]
fn an_end_before_the_last_acknowledgement_does_not_end_the_stream() {
    for (kind, plane) in KINDS {
        in_namespace(move || {
            let breaker = Breaker::default();
            let mut fields = several(2);
            fields["dead_peer_timeout"] = json!(8);
            let request = plane_request_with(kind, &fields);
            let mut tunnel = NegotiatedTunnel::on_plane(plane, breaker.seam(), &request);
            let (source, target) = tunnel.pair();
            exchange_bytes(&source, &target);
            breaker.lose(true);
            target.shutdown(Shutdown::Write).unwrap();
            assert!(read_to_end(&source).0.is_empty(), "{plane}");
            wait_until("an acknowledgement is lost", || breaker.lost() > 0);
            let before = breaker.lost();
            source.shutdown(Shutdown::Write).unwrap();
            wait_until("the source's end is lost", || breaker.lost() > before);
            breaker.lose(false);
            breaker.break_some(Break::End, |index| index > 0);
            let (data, end) = read_to_end(&target);
            end.unwrap();
            assert!(data.is_empty(), "{plane}");
            drop((source, target));
            let seam = tunnel.seam.clone();
            let (record, ended) = tunnel.finish();
            assert_eq!(record["failed"], 0, "{record}\n{}", ended.log);
            let (_, log) = seam.take_listener().end();
            assert!(!log.contains("FAILED"), "{plane}: {log}");
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
