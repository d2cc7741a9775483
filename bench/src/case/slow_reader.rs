//! A target that reads slowly while its source pushes: whose memory grows?

use crate::measure::{Effort, Row, Title};
use crate::peer::node::{Ends, Front, Node};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use testing::seam::{Crossing, Seam, wish};
use testing::stream::acquaint;
use testing::{pattern, peak_memory, role};

/// What the slow reader reads in a second, in bytes, and in one go.
const RATE: f64 = 10e6;
const PIECE: usize = 500_000;

/// What the source pushes at most, in bytes: far more than is read, and not more memory than this
/// machine has, for pveproxy takes all of it.
const MUCH: usize = 1 << 30;

/// How much a process of ours may grow, in MiB.
const GROWTH: f64 = 8.0;

/// What the program before the server is called in the path.
const CONNECTOR: &str = "connector";

pub fn run(effort: &Effort) -> Result<Vec<Row>, String> {
    let time = Duration::from_secs(if effort.quick { 2 } else { 30 });
    let paths: [fn(Duration) -> Result<Growth, String>; 4] = [
        |time| directly("tls", "secure", time),
        |time| directly("tcp", "insecure", time),
        |time| by_websocket(Front::TestNode, time),
        |time| by_websocket(Front::Pveproxy, time),
    ];
    // All at once: but for pveproxy in its first seconds, nobody has much to do.
    let paths = paths.map(|path| thread::spawn(move || path(time)));
    let mut rows = Vec::new();
    for path in paths {
        match path.join().unwrap() {
            Ok(growth) => rows.extend(growth.rows()),
            Err(reason) => println!("  left out: {reason}"),
        }
    }
    Ok(rows)
}

fn directly(plane: &str, kind: &str, time: Duration) -> Result<Growth, String> {
    let mut crossing = Crossing::on(plane, Seam::starting(role::listeners()), &wish(kind));
    let (source, target) = crossing.pair();
    let ends = Ends { source, target };
    let connector = crossing.connector.child.id();
    let listener = ("listener", crossing.seam.listener_pid());
    Ok(Growth::on(plane, &ends, connector, listener, time))
}

fn by_websocket(front: Front, time: Duration) -> Result<Growth, String> {
    let mut node = Node::start(front)?;
    let ends = node.connection();
    let server = (front.name(), node.pid());
    let path = format!("websocket to {}", front.name());
    Ok(Growth::on(&path, &ends, node.connector(), server, time))
}

/// What became of the memory of everybody on a path, in MiB.
struct Growth {
    path: String,
    connector: f64,
    server: (&'static str, f64),
    /// How much was pushed that was not read.
    unread: f64,
}

impl Growth {
    fn on(
        path: &str,
        ends: &Ends,
        connector: u32,
        (server, listener): (&'static str, u32),
        time: Duration,
    ) -> Self {
        acquaint(&ends.source, &ends.target);
        let pids = [connector, listener];
        let before = pids.map(peak_memory);
        let (after, unread) = thread::scope(|scope| {
            let pushing = scope.spawn(|| push(&ends.source));
            let read = read_slowly(&ends.target, time);
            let after = pids.map(peak_memory);
            // Nobody reads the rest.
            ends.source.shutdown(Shutdown::Both).unwrap();
            (after, pushing.join().unwrap() - read)
        });
        let grown = |index: usize| (after[index] - before[index]) as f64 / 1024.0;
        Self {
            path: path.to_owned(),
            connector: grown(0),
            server: (server, grown(1)),
            unread: unread as f64 / f64::from(1 << 20),
        }
    }

    /// Our own processes have a limit. A server of others is shown beside what it could have kept.
    fn rows(&self) -> [Row; 2] {
        let (server, grown) = self.server;
        let [name, server_name] = [CONNECTOR, server].map(|who| format!("{}, {who}", self.path));
        let server_title = title(&server_name);
        [
            Row::limited(title(&name), &[self.connector], GROWTH),
            match server {
                "listener" => Row::limited(server_title, &[grown], GROWTH),
                _ => Row::new(server_title, "unread", &[grown], &[self.unread], None),
            },
        ]
    }
}

fn title(name: &str) -> Title<'_> {
    Title {
        case: "slow-reader",
        name,
        unit: "MiB",
    }
}

/// Writes until nobody takes any more; how much that was.
fn push(mut to: &UnixStream) -> usize {
    let data = pattern(1 << 16);
    let mut pushed = 0;
    while pushed < MUCH {
        match to.write(&data) {
            Ok(count) => pushed += count,
            Err(_) => break,
        }
    }
    pushed
}

/// Reads at its rate; how much that was.
fn read_slowly(mut from: &UnixStream, time: Duration) -> usize {
    let mut buffer = vec![0; PIECE];
    let started = Instant::now();
    let mut read = 0;
    while started.elapsed() < time {
        let count = from.read(&mut buffer).unwrap();
        assert!(count > 0, "the stream ended after {read} bytes");
        read += count;
        let due = Duration::from_secs_f64(read as f64 / RATE);
        sleep(due.saturating_sub(started.elapsed()));
    }
    assert!(
        read as f64 > RATE * time.as_secs_f64() / 2.0,
        "{read} bytes"
    );
    read
}
