//! What peers can cause a listener to log.

use serde_json::json;
use std::net::{Shutdown, TcpStream};
use testing::listener::Listener;
use testing::read_to_end;
use testing::seam::program;
use testing::tcp_source::{connect_to_forward, endpoint};

/// Connections of each kind: more than the listener logs one by one.
const CONNECTIONS: u64 = 150;

/// Lines of one kind that a test may find. The first 20 are logged, then one in each 30 s, with a
/// report about the lines in between. This leaves 10 minutes for a slow machine.
const LINES: usize = 20 + 40;

fn assert_bounded(log: &str, kind: &str, words: &str) {
    let lines = log.lines().filter(|line| line.contains(words)).count();
    assert!((20..=LINES).contains(&lines), "{lines} {kind}: {log}");
    let counted: usize = log
        .lines()
        .filter_map(|line| line.strip_prefix(&format!("listener: {kind}: ")))
        .map(|report| report.split(' ').next().unwrap().parse::<usize>().unwrap())
        .sum();
    let total = usize::try_from(CONNECTIONS).unwrap();
    assert_eq!(lines + counted, total, "{kind}: {log}");
}

#[test]
fn the_lines_that_peers_cause_are_bounded_and_counted() {
    let mut listener = Listener::start(json!({
        "plane": "tcp", "network": "127.0.0.0/8", "node": "node", "hello_timeout": 120,
    }));
    let directory = tempfile::tempdir().unwrap();
    let number = listener.forward(&program(directory.path(), drop));
    for _ in 0..CONNECTIONS {
        // Strangers.
        drop(TcpStream::connect(endpoint(&listener.opened)).unwrap());
        // The source: a forward that does not exist, and connections that end well.
        assert_eq!(connect_to_forward(&listener.opened, 77).1, None);
        let (stream, status) = connect_to_forward(&listener.opened, number);
        assert_eq!(status, Some(0));
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_end(&stream).1.unwrap();
    }
    listener.stat_until(|stat| {
        let forward = &stat.forwards[0];
        (forward.connections, forward.open) == (CONNECTIONS, 0)
            && (stat.refused.number, stat.refused.malformed) == (CONNECTIONS, CONNECTIONS)
    });
    let (ended, log) = listener.end();
    ended.unwrap();
    for (kind, words) in [
        ("refused connections of unproven peers", "cut off"),
        (
            "refused connections of the source",
            "there is no forward 77",
        ),
        ("closed connections", ": closed ("),
    ] {
        assert_bounded(&log, kind, words);
    }
}
