//! A migration has one heartbeat.

use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use testing::listener::Listener;
use testing::read_to_end;
use testing::tcp_source::connect_to_forward;

/// Much longer than any step of a test takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The status for a second heartbeat.
const SECOND_HEARTBEAT: Option<u8> = Some(2);

fn listener(dead_peer_timeout: u64) -> Listener {
    Listener::start(json!({
        "plane": "tcp", "network": "127.0.0.0/8", "node": "node", "hello_timeout": 120,
        "dead_peer_timeout": dead_peer_timeout,
    }))
}

fn heartbeat(listener: &Listener) -> (TcpStream, Option<u8>) {
    let (stream, status) = connect_to_forward(&listener.opened, 0);
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    (stream, status)
}

/// Sends a beat and waits for its echo.
fn beat(mut stream: &TcpStream) {
    stream.write_all(&[7]).unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_second_heartbeat_is_refused_and_counted() {
    let mut listener = listener(3600);
    let (first, status) = heartbeat(&listener);
    assert_eq!(status, Some(0));
    for _ in 0..50 {
        let (second, status) = heartbeat(&listener);
        assert_eq!(status, SECOND_HEARTBEAT);
        assert!(read_to_end(&second).0.is_empty());
    }
    beat(&first);
    let stat = listener.stat_until(|stat| stat.refused.total() == 50);
    assert_eq!(stat.refused.heartbeat, 50, "{stat:?}");
    // The end of the first makes room.
    drop(first);
    let again = loop {
        let (stream, status) = heartbeat(&listener);
        match status {
            Some(0) => break stream,
            refused => assert_eq!(refused, SECOND_HEARTBEAT),
        }
    };
    beat(&again);
    let (_, log) = listener.end();
    assert!(
        log.contains("refused: the migration already has a heartbeat"),
        "{log}"
    );
}

#[test]
fn a_heartbeat_that_is_silent_is_replaced_before_it_counts_as_dead() {
    let mut listener = listener(20);
    let (silent, status) = heartbeat(&listener);
    assert_eq!(status, Some(0));
    // The second one is accepted after half of the limit.
    let replacing = loop {
        match heartbeat(&listener) {
            (stream, Some(0)) => break stream,
            (_, refused) => assert_eq!(refused, SECOND_HEARTBEAT),
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    drop(read_to_end(&silent));
    beat(&replacing);
    // The end of the first one neither ends the second one nor makes room for a third.
    assert_eq!(heartbeat(&listener).1, SECOND_HEARTBEAT);
    beat(&replacing);
    assert!(listener.stat().refused.heartbeat > 0);
}

#[test]
fn every_byte_of_the_heartbeat_is_sent_back() {
    let listener = listener(3600);
    assert_eq!(listener.opened["echo"], true);
    let (stream, _) = heartbeat(&listener);
    let sent = testing::pattern(32 << 10);
    std::thread::scope(|scope| {
        scope.spawn(|| (&stream).write_all(&sent).unwrap());
        let mut received = vec![0; sent.len()];
        (&stream).read_exact(&mut received).unwrap();
        assert!(received == sent);
    });
}
