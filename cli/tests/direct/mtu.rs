//! A network path whose MTU is smaller than that of the nodes, and which reports it to neither of
//! them. The source and the listener are in different network namespaces.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};
use testing::cable::{Cable, plane_request};
use testing::link::{BOTH, Direction, on_link};
use testing::namespace::in_namespace;
use testing::seam::{NegotiatedTunnel, Seam};
use testing::stream::{
    exchange_bytes, expect_both_fail, expect_reset, read_until_end, write_until_failure,
};
use testing::{pattern, wait_until};

/// How long the negotiation of a plane may take that does not work, on a busy machine.
const NEGOTIATION: Duration = Duration::from_secs(10);

/// How long after its limit a dead path may be detected on a busy machine.
const SLACK: Duration = Duration::from_secs(8);

const PLANES: [&str; 2] = ["tls", "tcp"];

/// A negotiation that detects the lost packets. Returns the message to the operator.
fn fail_to_negotiate(plane: &str, seam: &Seam) -> String {
    let request = plane_request(plane, &json!({}));
    let tunnel = NegotiatedTunnel::negotiate(seam.clone(), &request);
    let answer = &tunnel.answer;
    assert!(tunnel.took < NEGOTIATION, "{:?}: {answer}", tunnel.took);
    // Nothing but the listener was created, and it has ended.
    assert_eq!(seam.received(), ["version", "hello", "open", "close"]);
    seam.take_listener().end().0.unwrap();
    if plane == "tcp" {
        assert_eq!(answer["success"], false, "{answer}");
        return answer["msg"].as_str().unwrap().to_owned();
    }
    assert_eq!(answer["plan"]["plane"], "websocket", "{answer}");
    answer["plan"]["warnings"].to_string()
}

/// The seam of a target whose listener answers the heartbeat with less than it receives.
fn without_echo(seam: Seam) -> Seam {
    seam.with_script(|direct, ours| {
        let mut answer = ours();
        if direct["op"] == "open" {
            assert_eq!(answer["direct"]["echo"], true, "{answer}");
            answer["direct"]["echo"] = Value::Null;
        }
        answer
    })
}

#[test]
fn a_path_that_loses_large_packets_to_the_target_is_no_direct_plane() {
    in_namespace(|| {
        let cable = Cable::new();
        cable.enable_jumbo_frames();
        cable.drop_large_packets_to_target();
        for plane in PLANES {
            for seam in [cable.seam(), without_echo(cable.seam())] {
                let message = fail_to_negotiate(plane, &seam);
                for words in [
                    "large packets to the target are lost",
                    "'ping -M do -s 8972 10.77.0.2' on this node",
                ] {
                    assert!(message.contains(words), "{plane}: {message}");
                }
            }
        }
    });
}

#[test]
fn a_path_that_loses_large_packets_to_the_source_is_no_direct_plane() {
    in_namespace(|| {
        let cable = Cable::new();
        cable.enable_jumbo_frames();
        cable.drop_large_packets_to_source();
        for plane in PLANES {
            let message = fail_to_negotiate(plane, &cable.seam());
            for words in [
                "large packets from the target are lost",
                "'ping -M do -s 8972 10.77.0.1' on the target node",
            ] {
                assert!(message.contains(words), "{plane}: {message}");
            }
        }
    });
}

#[test]
fn a_path_that_delivers_large_packets_is_a_direct_plane() {
    in_namespace(|| {
        let cable = Cable::new();
        cable.enable_jumbo_frames();
        for plane in PLANES {
            for seam in [cable.seam(), without_echo(cable.seam())] {
                let request = plane_request(plane, &json!({}));
                let mut tunnel = NegotiatedTunnel::on_plane(plane, seam, &request);
                let (source, target) = tunnel.pair();
                exchange_bytes(&source, &target);
            }
        }
    });
}

/// WireGuard's MTU on an Ethernet network.
const SMALLER: usize = 1420;

/// Both nodes have that MTU, as at the ends of a WireGuard tunnel.
#[test]
fn a_link_with_an_mtu_of_1420_bytes_is_a_direct_plane() {
    on_link(|link| {
        link.set_mtu(SMALLER);
        for direction in BOTH {
            // The link would drop larger packets.
            link.change(direction, |conditions| conditions.largest = SMALLER);
        }
        for plane in PLANES {
            let request = plane_request(plane, &json!({}));
            let mut tunnel = NegotiatedTunnel::on_plane(plane, link.seam(), &request);
            let (source, target) = tunnel.pair();
            for (mut from, mut to) in [(&source, &target), (&target, &source)] {
                let data = pattern(1 << 20);
                thread::scope(|scope| {
                    scope.spawn(|| from.write_all(&data).unwrap());
                    let mut received = vec![0; data.len()];
                    to.read_exact(&mut received).unwrap();
                    assert!(received == data, "{plane}: the data differs");
                });
            }
            for direction in BOTH {
                assert_eq!(link.counts(direction).lost, 0, "{plane}, {direction:?}");
            }
        }
    });
}

/// The nodes have an MTU of 1500 bytes, the network between them one of 1420.
#[test]
fn a_path_that_drops_packets_of_the_usual_size_is_no_direct_plane() {
    on_link(|link| {
        for direction in BOTH {
            link.change(direction, |conditions| conditions.largest = SMALLER);
            let (words, command) = match direction {
                Direction::ToTarget => ("to the target", "10.77.0.2' on this node"),
                Direction::ToSource => ("from the target", "10.77.0.1' on the target node"),
            };
            for plane in PLANES {
                let message = fail_to_negotiate(plane, &link.seam());
                for words in [
                    &format!("large packets {words} are lost"),
                    &format!("'ping -M do -s 1472 {command}"),
                ] {
                    assert!(message.contains(words), "{plane}, {direction:?}: {message}");
                }
            }
            link.change(direction, |conditions| conditions.largest = usize::MAX);
        }
    });
}

/// Requires that a transfer fails at both ends, and that a connection without large packets does not.
fn lose_packets_in_transfer(plane: &str, lanes: u16, to_target: bool) {
    const LIMIT: Duration = Duration::from_secs(3);
    let cable = Cable::new();
    cable.enable_jumbo_frames();
    let mut tunnel = cable.tunnel_with_lanes(plane, LIMIT.as_secs(), lanes);
    let (source, target) = tunnel.pair();
    let (idle_source, idle_target) = tunnel.pair();
    exchange_bytes(&source, &target);
    let (from, to) = match to_target {
        true => (source, target),
        false => (target, source),
    };
    let (writer, own_reader) = (write_until_failure(&from), read_until_end(&from).1);
    let (count, reader) = read_until_end(&to);
    wait_until("data moves", || count.load(Ordering::Relaxed) > 1 << 20);

    match to_target {
        true => cable.drop_large_packets_to_target(),
        false => cable.drop_large_packets_to_source(),
    }
    let lost = Instant::now();
    for end in [expect_both_fail(writer, own_reader), expect_reset(reader)] {
        let took = end - lost;
        assert!(
            took > LIMIT / 2 && took < LIMIT + SLACK,
            "{plane}: {took:?}"
        );
    }
    // The heartbeat and other connections are not affected.
    exchange_bytes(&idle_source, &idle_target);
    idle_source.shutdown(Shutdown::Both).unwrap();
    idle_target.shutdown(Shutdown::Both).unwrap();
    let seam = tunnel.seam.clone();
    let (record, finished) = tunnel.finish();
    assert_eq!(record["failed"], 1, "{record}");
    let (_, log) = seam.take_listener().end();
    let logs = [finished.log, log];
    let (detects, other) = match to_target {
        true => (&logs[0], &logs[1]),
        false => (&logs[1], &logs[0]),
    };
    // A lane fails earlier than its stream, which other lanes could continue.
    let limit = if lanes == 1 { LIMIT } else { LIMIT / 4 };
    let expected = format!(
        "sent data was not acknowledged for {limit:?}: the network path loses packets; check the path MTU with 'ping -M do -s 8972 "
    );
    assert!(detects.contains(&expected), "{plane}: {detects}");
    assert!(other.contains("FAILED: "), "{plane}: {other}");
    assert!(!detects.contains("is dead") && !other.contains("is dead"));
}

#[test]
fn a_transfer_to_the_target_whose_large_packets_are_lost_fails_within_the_limit() {
    for plane in PLANES {
        for lanes in [1, 2] {
            in_namespace(move || lose_packets_in_transfer(plane, lanes, true));
        }
    }
}

#[test]
fn a_transfer_to_the_source_whose_large_packets_are_lost_fails_within_the_limit() {
    for plane in PLANES {
        for lanes in [1, 2] {
            in_namespace(move || lose_packets_in_transfer(plane, lanes, false));
        }
    }
}
