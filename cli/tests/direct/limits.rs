//! What limits a migration, as record and progress lines report it: one planted limit for each case.

use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use testing::cable::plane_request;
use testing::link::{Link, on_link};
use testing::listener::Listener;
use testing::namespace::run;
use testing::seam::{NegotiatedTunnel, Seam};

/// How long each case transfers data.
const TIME: Duration = Duration::from_millis(3500);

/// Bytes per second of a slow program.
const SLOW: f64 = 2e6;

/// Bytes that a program writes or reads at once.
const PIECE: usize = 64 << 10;

/// A migration with one limit.
#[derive(Clone, Copy, Default)]
struct Case {
    /// In milliseconds.
    round_trip: u64,
    loss: f64,
    /// Bytes per second; none for that of the link.
    rate: Option<u64>,
    slow_source: bool,
    slow_target: bool,
    /// The largest buffers of the kernel, in bytes: of the source for sending, of the target for
    /// receiving.
    send_buffer: Option<usize>,
    receive_buffer: Option<usize>,
    /// The connector has a core that other processes keep busy.
    busy_core: bool,
    /// The sockets stay as the kernel makes them.
    system: bool,
}

const CASES: [(&str, &str, Case); 9] = [
    (
        "loss",
        "loss",
        Case {
            round_trip: 20,
            loss: 0.01,
            system: true,
            ..DEFAULT
        },
    ),
    (
        "the target's window",
        "window",
        Case {
            round_trip: 40,
            receive_buffer: Some(256 << 10),
            system: true,
            ..DEFAULT
        },
    ),
    (
        "the source's buffer",
        "window",
        Case {
            round_trip: 40,
            send_buffer: Some(512 << 10),
            system: true,
            ..DEFAULT
        },
    ),
    (
        // One connection fills it, also after losses: its queue holds the data of several round trips.
        "a slow link",
        "rate",
        Case {
            round_trip: 5,
            rate: Some(10_000_000),
            ..DEFAULT
        },
    ),
    (
        "a slow source",
        "source",
        Case {
            slow_source: true,
            ..DEFAULT
        },
    ),
    (
        "a slow source far away",
        "source",
        Case {
            round_trip: 40,
            slow_source: true,
            ..DEFAULT
        },
    ),
    (
        "a slow target",
        "target",
        Case {
            slow_target: true,
            ..DEFAULT
        },
    ),
    (
        "a slow target far away",
        "target",
        Case {
            round_trip: 40,
            slow_target: true,
            ..DEFAULT
        },
    ),
    (
        "a busy core",
        "core",
        Case {
            busy_core: true,
            ..DEFAULT
        },
    ),
];

const DEFAULT: Case = Case {
    round_trip: 0,
    loss: 0.0,
    rate: None,
    slow_source: false,
    slow_target: false,
    send_buffer: None,
    receive_buffer: None,
    busy_core: false,
    system: false,
};

#[test]
fn each_limit_is_named() {
    for (what, expected, case) in CASES {
        on_link(move |link| {
            let record = case.run(link, &json!({})).0;
            assert_eq!(record["limited_by"], expected, "{what}: {record}");
            assert_eq!(record["lanes"], Value::Null, "{what}: {record}");
        });
    }
}

#[test]
fn more_lanes_are_opened_where_they_help_and_only_there() {
    // One of each limit.
    let each = CASES
        .iter()
        .enumerate()
        .filter(|(at, (_, limit, _))| !CASES[..*at].iter().any(|(_, before, _)| before == limit));
    for (_, (what, limit, case)) in each {
        on_link(move |link| {
            let fields = json!({ "lanes": 8, "threads": 4 });
            let (record, log) = case.run(link, &fields);
            let most = record["lanes"]["most"].as_u64().unwrap();
            let helps = ["loss", "window", "core"].contains(limit);
            assert_eq!(most > 1, helps, "{what}: {record}\n{log}");
            match helps {
                true => assert!(log.contains(" lanes, because it is limited by "), "{log}"),
                false => assert_eq!(record["limited_by"], *limit, "{what}: {record}"),
            }
        });
    }
}

impl Case {
    /// Transfers data for some time. Returns the record and the log.
    fn run(self, link: &Link, fields: &Value) -> (Value, String) {
        link.set_round_trip(Duration::from_millis(self.round_trip));
        link.set_loss(self.loss);
        if let Some(rate) = self.rate {
            link.set_rate(rate);
        }
        if let Some(size) = self.send_buffer {
            limit_buffers("tcp_wmem", size);
        }
        if let Some(size) = self.receive_buffer {
            link.target()
                .execute(move || limit_buffers("tcp_rmem", size));
        }
        let sockets = match self.system {
            true => json!({ "congestion": "system", "buffer": "system" }),
            false => json!({}),
        };
        let request = plane_request("tls", &merged(fields, &sockets));
        let mut tunnel = NegotiatedTunnel::on_plane("tls", seam(link, sockets), &request);
        let (source, target) = tunnel.pair();
        let _busy = self
            .busy_core
            .then(|| BusyCore::of(tunnel.connector.child.id()));
        let deadline = Instant::now() + TIME;
        let rate = |slow: bool| if slow { SLOW } else { f64::INFINITY };
        let (slow_source, slow_target) = (rate(self.slow_source), rate(self.slow_target));
        let writer = thread::spawn(move || write_until(source, deadline, slow_source));
        let target = read_until(target, deadline, slow_target);
        let (record, ended) = tunnel.finish();
        // The connections are open until the record is there.
        drop(target);
        drop(writer.join().unwrap());
        (record, ended.log)
    }
}

fn merged(first: &Value, second: &Value) -> Value {
    let members = [first, second].map(|value| value.as_object().unwrap().clone());
    Value::Object(members.into_iter().flatten().collect())
}

/// A seam whose listener has these options too.
fn seam(link: &Link, options: Value) -> Seam {
    let target = link.target().clone();
    let start = move |options| target.execute(move || Listener::start(options));
    Seam::with_options(start, options)
}

/// Limits the buffers that the kernel selects by itself in this namespace.
fn limit_buffers(setting: &str, most: usize) {
    let path = format!("/proc/sys/net/ipv4/{setting}");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut sizes: Vec<usize> = text
        .split_whitespace()
        .map(|size| size.parse().unwrap())
        .collect();
    sizes[2] = most;
    let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
    std::fs::write(&path, sizes.join(" ")).unwrap();
}

/// Writes at this rate, in bytes per second. Returns the stream.
fn write_until(mut stream: UnixStream, deadline: Instant, rate: f64) -> UnixStream {
    let data = vec![7; PIECE];
    let started = Instant::now();
    let mut count = 0;
    while Instant::now() < deadline {
        // Fails when the tunnel has ended.
        if stream.write_all(&data).is_err() {
            break;
        }
        count += PIECE;
        pause(started, count, rate, deadline);
    }
    stream
}

/// Reads at this rate, in bytes per second. Returns the stream.
fn read_until(mut stream: UnixStream, deadline: Instant, rate: f64) -> UnixStream {
    let mut buffer = vec![0; PIECE];
    // The writer may pause.
    let limit = Some(Duration::from_millis(50));
    stream.set_read_timeout(limit).unwrap();
    let started = Instant::now();
    let mut count = 0;
    while Instant::now() < deadline {
        match stream.read(&mut buffer) {
            Ok(read) => count += read,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        pause(started, count, rate, deadline);
    }
    stream
}

/// Does not wait for an event: it limits the rate.
fn pause(started: Instant, count: usize, rate: f64, deadline: Instant) {
    let due = started + Duration::from_secs_f64(count as f64 / rate);
    sleep(due.min(deadline).saturating_duration_since(Instant::now()));
}

/// A process that keeps a core busy. Another process has only this core, with the lowest priority: about
/// a seventieth of its time.
struct BusyCore(Child);

impl BusyCore {
    fn of(process: u32) -> Self {
        run(&format!("taskset --pid --cpu-list 0 {process}"));
        run(&format!("renice --priority 19 --pid {process}"));
        let endless = "while :; do :; done";
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", "0", "sh", "-c", endless]);
        Self(command.spawn().unwrap())
    }
}

impl Drop for BusyCore {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
