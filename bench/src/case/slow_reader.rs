//! Memory while the target reads slowly and the source writes as fast as it can.

use crate::measure::{Effort, Row, Rows, Title};
use crate::peer::node::{Front, Node};
use crate::plane;
use crate::tunnel::{CONNECTOR, Ends, LISTENER, Tunnel};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use testing::stream::exchange_bytes;
use testing::{pattern, peak_memory};

/// Bytes per second that the target reads.
const RATE: f64 = 10e6;

/// Bytes per read.
const READ_SIZE: usize = 500_000;

/// The most that the source writes, in bytes. Far more than the target reads in one run (300 MB). It
/// must fit into the memory of this machine, because pveproxy buffers all of it.
const MAX_WRITTEN: usize = 1 << 30;

/// The most that a process of pve-tunnel may grow, in MiB.
const GROWTH: f64 = 8.0;

/// The same with lanes, which keep what is not acknowledged.
const GROWTH_WITH_LANES: f64 = 64.0;

/// The most that the processes of pveproxy may grow together behind lanes, in MiB: the window of a stream,
/// and 8.
const GROWTH_BEHIND_LANES: f64 = 40.0;

pub fn run(effort: &Effort, rows: &mut Rows) -> Result<(), String> {
    let time = Duration::from_secs(if effort.quick { 2 } else { 30 });
    let paths: [fn(Duration) -> Result<Growth, String>; 5] = [
        |time| direct("tls", time),
        |time| direct("tcp", time),
        |time| through_websocket(Front::TestNode, time),
        |time| through_websocket(Front::Pveproxy, time),
        through_lanes,
    ];
    // All at once: after pveproxy's first seconds, no process uses much CPU time.
    let paths = paths.map(|path| thread::spawn(move || path(time)));
    for path in paths {
        match path.join().unwrap() {
            Ok(growth) => rows.extend(growth.rows()),
            Err(reason) => crate::output::line(format_args!("  skipped: {reason}")),
        }
    }
    Ok(())
}

fn direct(plane: &str, time: Duration) -> Result<Growth, String> {
    let limits = Limits::of(GROWTH);
    Ok(Growth::of(&mut plane::direct(plane), plane, limits, time))
}

fn through_websocket(front: Front, time: Duration) -> Result<Growth, String> {
    let path = format!("websocket to {}", front.name());
    let limits = Limits::of(GROWTH);
    Ok(Growth::of(&mut Node::start(front)?, &path, limits, time))
}

fn through_lanes(time: Duration) -> Result<Growth, String> {
    let mut node = Node::with_processes(3)?;
    node.use_lanes();
    let limits = Limits {
        ours: GROWTH_WITH_LANES,
        server: Some(GROWTH_BEHIND_LANES),
    };
    Ok(Growth::of(
        &mut node,
        "lanes through pveproxy",
        limits,
        time,
    ))
}

/// How much processes may grow, in MiB.
struct Limits {
    /// Those of pve-tunnel.
    ours: f64,
    /// Those of the server together; none if its growth is compared with what it may have buffered.
    server: Option<f64>,
}

impl Limits {
    fn of(ours: f64) -> Self {
        Self { ours, server: None }
    }
}

/// How much the processes in a path grow.
struct Growth {
    path: String,
    limits: Limits,
    /// Name and growth of each process, or of all with this name together, in MiB.
    processes: Vec<(String, f64)>,
    /// What the source wrote and the target did not read, in MiB.
    unread: f64,
}

impl Growth {
    fn of(tunnel: &mut dyn Tunnel, path: &str, limits: Limits, time: Duration) -> Self {
        let Ends { source, sink } = tunnel.connect();
        exchange_bytes(&source, &sink);
        let processes = tunnel.processes();
        let memory = || processes.iter().map(|(_, pid)| peak_memory(*pid));
        let before: Vec<u64> = memory().collect();
        let (after, unread) = thread::scope(|scope| {
            let writer = scope.spawn(|| write(&source));
            let read = read_slowly(&sink, time);
            let after: Vec<u64> = memory().collect();
            // Makes the writer's next write fail.
            source.shutdown(Shutdown::Both).unwrap();
            (after, writer.join().unwrap() - read)
        });
        let growth = after.iter().zip(&before);
        let growth = growth.map(|(after, before)| (after - before) as f64 / 1024.0);
        let mut grown: Vec<(String, f64)> = Vec::new();
        for ((name, _), growth) in processes.iter().zip(growth) {
            match grown.iter_mut().find(|(other, _)| other == name) {
                Some((_, sum)) => *sum += growth,
                None => grown.push(((*name).to_owned(), growth)),
            }
        }
        Self {
            path: path.to_owned(),
            limits,
            processes: grown,
            unread: unread as f64 / f64::from(1 << 20),
        }
    }

    /// Processes of pve-tunnel have a limit. Without one, the growth of a server is compared with the
    /// unread data that it may have buffered.
    fn rows(&self) -> Vec<Row> {
        let row = |(process, growth): &(String, f64)| {
            let name = format!("{}, {process}", self.path);
            let title = Title {
                case: "slow-reader",
                name: &name,
                unit: "MiB",
            };
            let limit = match [CONNECTOR, LISTENER].contains(&process.as_str()) {
                true => Some(self.limits.ours),
                false => self.limits.server,
            };
            match limit {
                Some(limit) => Row::limited(title, &[*growth], limit),
                None => Row::new(title, "unread", &[*growth], &[self.unread], None),
            }
        };
        self.processes.iter().map(row).collect()
    }
}

/// Writes until the stream is closed. Returns the number of bytes.
fn write(mut to: &UnixStream) -> usize {
    let data = pattern(1 << 16);
    let mut written = 0;
    while written < MAX_WRITTEN {
        match to.write(&data) {
            Ok(count) => written += count,
            Err(_) => break,
        }
    }
    written
}

/// Returns the number of bytes.
fn read_slowly(mut from: &UnixStream, time: Duration) -> usize {
    let mut buffer = vec![0; READ_SIZE];
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
