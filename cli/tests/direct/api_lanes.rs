//! Lanes through the target's API.

use serde_json::{Value, json};
use std::io::Read;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;
use testing::bridge::{Bridge, End};
use testing::seam::{NegotiatedTunnel, Seam, plane_request_with};
use testing::stream::{exchange_bytes, expect_both_fail, read_until_end, write_until_failure};
use testing::{pattern, read_to_end, role, signal, wait_until, write_in_pieces};

/// More bytes than all buffers in the path hold.
const LENGTH: usize = 64 << 20;

fn request(fields: &Value) -> Value {
    let mut all = json!({ "planes": [], "migration_network": null, "network": null });
    for (name, value) in fields.as_object().unwrap() {
        all[name] = value.clone();
    }
    plane_request_with("secure", &all)
}

fn tunnel(seam: Seam, bridge: &Bridge, fields: &Value) -> NegotiatedTunnel {
    let seam = seam.with_websocket_lanes(bridge.clone());
    let tunnel = NegotiatedTunnel::on_plane("websocket", seam, &request(fields));
    let direct = &tunnel.answer["direct"];
    assert_eq!(direct["plane"], "websocket", "{}", tunnel.answer);
    assert_eq!(direct["protocol"], 2, "{direct}");
    tunnel
}

/// Moves data in both directions. `happens` is called when a part of it has arrived.
fn transfer(source: UnixStream, target: UnixStream, happens: impl FnOnce()) {
    let (source, target) = (&source, &target);
    thread::scope(|scope| {
        let readers = [(source, target), (target, source)].map(|(from, to)| {
            scope.spawn(move || {
                write_in_pieces(from, &pattern(LENGTH)).unwrap();
                from.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let (data, end) = read_to_end(to);
                end.unwrap();
                data
            })
        });
        happens();
        for reader in readers {
            let data = reader.join().unwrap();
            assert!(data == pattern(LENGTH), "{} bytes", data.len());
        }
    });
}

#[test]
fn streams_are_carried_in_both_directions() {
    let bridge = Bridge::default();
    let mut tunnel = tunnel(Seam::default(), &bridge, &json!({}));
    assert_eq!(tunnel.answer["direct"]["lanes"], 3, "{}", tunnel.answer);
    let reason = tunnel.answer["plan"]["reason"].as_str().unwrap();
    assert!(reason.contains("several websockets"), "{reason}");
    let socket = tunnel.seam.listener_socket();
    let mode = socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let (first, second) = (tunnel.pair(), tunnel.pair());
    exchange_bytes(&second.0, &second.1);
    transfer(first.0, first.1, || ());
    exchange_bytes(&second.0, &second.1);
    drop(second);

    let seam = tunnel.seam.clone();
    let (record, ended) = tunnel.finish();
    assert_eq!(record["forwards_plane"], "websocket", "{record}");
    assert_eq!(record["failed"], 0, "{record}\n{}", ended.log);
    assert_eq!(record["lanes"]["most"], 3, "{record}");
    let (result, log) = seam.take_listener().end();
    result.unwrap();
    for log in [ended.log, log] {
        assert!(!log.contains("FAILED: "), "{log}");
    }
    assert!(!socket.exists());
}

/// The lanes end one after another, and the last acknowledgement arrives on any of them.
#[test]
fn the_end_of_a_stream_is_no_failure_of_its_lanes() {
    let bridge = Bridge::default();
    let mut tunnel = tunnel(Seam::default(), &bridge, &json!({}));
    for _ in 0..20 {
        let (source, target) = tunnel.pair();
        write_in_pieces(&source, &pattern(LENGTH / 8)).unwrap();
        drop(source);
        read_to_end(&target).1.unwrap();
    }
    let seam = tunnel.seam.clone();
    let (record, ended) = tunnel.finish();
    assert_eq!(record["lanes"]["most"], 3, "{record}");
    let (_, log) = seam.take_listener().end();
    for log in [ended.log, log] {
        assert!(!log.contains(" failed: "), "{log}");
    }
}

/// pveproxy also ends the websockets of a listener that has died as if it had closed them.
#[test]
fn a_stream_survives_the_end_of_its_websockets() {
    for how in [End::Killed, End::Closed] {
        for heartbeat_too in [false, true] {
            let bridge = Bridge::default();
            let mut tunnel = tunnel(Seam::default(), &bridge, &json!({}));
            let (source, target) = tunnel.pair();
            transfer(source, target, || {
                wait_until("all lanes carry data", || bridge.used(1 << 18) == 3);
                bridge.end_some(how, |number| heartbeat_too || number > 0);
                let half = LENGTH as u64 / 2;
                wait_until("half of the data has moved", || bridge.bytes() > half);
                bridge.end_some(how, |number| number > 0);
            });
            let (record, ended) = tunnel.finish();
            assert_eq!(record["failed"], 0, "{how:?} {record}\n{}", ended.log);
            let reopened = record["lanes"]["reopened"].as_u64();
            assert!(reopened > Some(0), "{how:?} {record}");
            assert!(record["lanes"]["most"].as_u64().unwrap() <= 3, "{record}");
        }
    }
}

/// The kernels acknowledge what a suspended process does not read. The heartbeat has another one.
#[test]
fn a_stream_survives_lanes_that_deliver_nothing() {
    for at_first in [true, false] {
        let bridge = Bridge::default();
        let fields = json!({ "dead_peer_timeout": 8 });
        let mut tunnel = tunnel(Seam::default(), &bridge, &fields);
        let (source, target) = tunnel.pair();
        match at_first {
            // A request on the only lane so far, which has no answer.
            true => {
                exchange_bytes(&source, &target);
                bridge.freeze_some(|number| number > 0);
                exchange_bytes(&source, &target);
                drop((source, target));
            }
            false => transfer(source, target, || {
                wait_until("all lanes carry data", || bridge.used(1 << 18) == 3);
                bridge.freeze_some(|number| number > 1);
            }),
        }
        let (record, ended) = tunnel.finish();
        assert_eq!(record["failed"], 0, "{record}\n{}", ended.log);
        let reopened = record["lanes"]["reopened"].as_u64();
        assert!(reopened > Some(0), "{record}\n{}", ended.log);
        let silent = "nothing was received for 2s";
        assert!(ended.log.contains(silent), "{}", ended.log);
    }
}

#[test]
fn lanes_that_have_nothing_to_carry_are_alive() {
    let bridge = Bridge::default();
    let mut tunnel = tunnel(Seam::default(), &bridge, &json!({ "dead_peer_timeout": 4 }));
    let (source, target) = tunnel.pair();
    exchange_bytes(&source, &target);
    // This waits for no event: nothing happens for longer than the limit.
    thread::sleep(Duration::from_secs(5));
    exchange_bytes(&source, &target);
    drop((source, target));
    let (record, ended) = tunnel.finish();
    assert_eq!(record["lanes"]["reopened"], 0, "{record}\n{}", ended.log);
}

#[test]
fn both_programs_get_an_error_if_the_listener_is_killed() {
    let bridge = Bridge::default();
    let seam = Seam::with_listeners(role::listeners());
    let mut tunnel = tunnel(seam, &bridge, &json!({ "dead_peer_timeout": 4 }));
    let (source, target) = tunnel.pair();
    let (writer, (_, reader)) = (write_until_failure(&source), read_until_end(&target));
    wait_until("data moves", || bridge.bytes() > LENGTH as u64);
    signal("KILL", tunnel.seam.listener_pid());
    expect_both_fail(writer, reader);
    let ended = tunnel.connector.finish();
    assert!(ended.log.contains("is dead: "), "{}", ended.log);
}

/// The window of the stream bounds what is on its way, whoever buffers it.
#[test]
fn a_reader_that_stalls_stops_the_writer() {
    const WINDOW: u64 = 32 << 20;
    let bridge = Bridge::default();
    let mut tunnel = tunnel(Seam::default(), &bridge, &json!({}));
    let (source, mut target) = tunnel.pair();
    let data = pattern(2 * LENGTH);
    thread::scope(|scope| {
        scope.spawn(|| {
            write_in_pieces(&source, &data).unwrap();
            source.shutdown(Shutdown::Write).unwrap();
        });
        // The window grows while the program reads.
        let mut first = vec![0; LENGTH];
        target.read_exact(&mut first).unwrap();
        let before = bridge.bytes();
        let mut last = 0;
        wait_until("nothing moves", || {
            thread::sleep(Duration::from_millis(300));
            std::mem::replace(&mut last, bridge.bytes()) == last
        });
        let ahead = last - LENGTH as u64;
        assert!(ahead < WINDOW + (2 << 20), "{ahead} {before}");
        let (rest, end) = read_to_end(&target);
        end.unwrap();
        first.extend(rest);
        assert!(first == data, "{} bytes", first.len());
    });
}

#[test]
fn a_direct_plane_that_does_not_work_is_replaced_by_lanes() {
    let bridge = Bridge::default();
    let seam = Seam::scripted(|request, default_answer| {
        let mut answer = default_answer();
        if request["plane"] == "tls" {
            // Nothing listens there.
            answer["direct"]["port"] = 60049.into();
        }
        answer
    })
    .with_websocket_lanes(bridge.clone());
    let request = plane_request_with("secure", &json!({ "planes": ["tls"] }));
    let mut tunnel = NegotiatedTunnel::on_plane("websocket", seam, &request);
    let plan = &tunnel.answer["plan"];
    assert!(
        plan["warnings"][0]
            .as_str()
            .unwrap()
            .contains("unreachable"),
        "{plan}"
    );
    assert_eq!(tunnel.answer["direct"]["plane"], "websocket");
    let (source, target) = tunnel.pair();
    transfer(source, target, || ());
    assert_eq!(tunnel.finish().0["lanes"]["most"], 3);
}

#[test]
fn each_stream_has_one_websocket_where_lanes_are_not_possible() {
    let bridge = Bridge::default();
    let offering = || Seam::default().with_websocket_lanes(bridge.clone());
    let answers = |changed: fn(&mut Value, &Value)| {
        offering().with_script(move |request, default_answer| {
            let mut answer = default_answer();
            changed(&mut answer, request);
            answer
        })
    };
    let not_permitted = json!({ "api": null });
    for (seam, fields, warning) in [
        // A caller that does not permit it, one that wants one connection, and targets of earlier versions.
        (offering(), not_permitted, None),
        (offering(), json!({ "lanes": 1 }), None),
        (Seam::default(), json!({}), None),
        (
            answers(|answer, request| {
                if request["op"] == "hello" {
                    answer["direct"]["protocol"] = 1.into();
                }
            }),
            json!({}),
            None,
        ),
        (
            answers(|answer, request| {
                if request["op"] == "open" {
                    *answer = json!({ "success": false, "msg": "no more listeners" });
                }
            }),
            json!({}),
            Some("no more listeners"),
        ),
        (
            answers(|answer, request| {
                if request["op"] == "open" {
                    answer["direct"]["protocol"] = 1.into();
                }
            }),
            json!({}),
            Some("which was not requested"),
        ),
        (
            answers(|answer, request| {
                if request["op"] == "open" {
                    // Another program's socket.
                    answer["direct"]["path"] = "/run/echo".into();
                }
            }),
            json!({}),
            Some("no answer to the handshake"),
        ),
    ] {
        let tunnel = NegotiatedTunnel::on_plane("websocket", seam, &request(&fields));
        let answer = &tunnel.answer;
        assert_eq!(answer["direct"], json!(null), "{answer}");
        let warnings = answer["plan"]["warnings"].as_array().unwrap();
        match warning {
            Some(text) => {
                let first = warnings[0].as_str().unwrap();
                assert!(
                    first.contains("one websocket") && first.contains(text),
                    "{first}"
                );
                let operations = tunnel.seam.operations();
                let closed = operations.iter().any(|name| name == "close");
                assert_eq!(closed, !text.starts_with("no more"), "{operations:?}");
            }
            None => assert!(warnings.is_empty(), "{warnings:?}"),
        }
    }
}
