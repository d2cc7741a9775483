//! Sockets on an emulated link: what they get on long and lossy paths, and what stays bounded there.

use crate::tuning::{MIB, Options, sockets};
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use testing::cable::plane_request;
use testing::link::{Link, on_link};
use testing::seam::NegotiatedTunnel;
use testing::stream::write_until_failure;

/// Much longer than the first seconds of a connection, in which its socket is changed.
const LIMIT: Duration = Duration::from_secs(30);

fn tunnel(link: &Link) -> NegotiatedTunnel {
    NegotiatedTunnel::on_plane("tls", link.seam(), &plane_request("tls", &json!({})))
}

/// Programs at both ends, which write and read until the tunnel ends.
fn transfer(source: UnixStream, target: UnixStream) -> [JoinHandle<()>; 2] {
    let writer = move || {
        let mut source = source;
        while source.write_all(&[7; 64 << 10]).is_ok() {}
    };
    let reader = move || {
        let mut target = target;
        let mut buffer = vec![0; 256 << 10];
        while target.read(&mut buffer).is_ok_and(|count| count > 0) {}
    };
    [thread::spawn(writer), thread::spawn(reader)]
}

/// Waits until a connection of this namespace has these options.
fn wait_for(tunnel: &NegotiatedTunnel, what: &str, condition: impl Fn(&Options) -> bool) {
    let port = &tunnel.answer["direct"]["port"];
    let limit = Instant::now() + LIMIT;
    while !sockets(port).iter().any(&condition) {
        let log = tunnel.connector.logged();
        assert!(
            Instant::now() < limit,
            "never {what}: {:?} {log:?}",
            sockets(port)
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// Ends the tunnel, and then the programs. Returns the connector's log.
fn finish(tunnel: NegotiatedTunnel, programs: Vec<JoinHandle<()>>) -> String {
    let (_, finished) = tunnel.finish();
    for program in programs {
        program.join().unwrap();
    }
    finished.log
}

#[test]
fn a_long_path_gets_a_larger_send_buffer() {
    on_link(|link| {
        link.set_round_trip(Duration::from_millis(40));
        let mut tunnel = tunnel(link);
        let (source, target) = tunnel.pair();
        let programs = transfer(source, target);
        wait_for(&tunnel, "a larger buffer", |options| {
            options.send >= 16 * MIB
        });
        let log = finish(tunnel, programs.into());
        let line = "connection 1: send buffer set to 16.0 MiB: its ";
        assert_eq!(log.matches(line).count(), 1, "{log}");
    });
}

#[test]
fn a_lossy_long_path_gets_bbr_and_later_connections_begin_with_it() {
    on_link(|link| {
        link.set_round_trip(Duration::from_millis(20));
        link.set_loss(0.01);
        let mut tunnel = tunnel(link);
        let (source, target) = tunnel.pair();
        let mut programs = Vec::from(transfer(source, target));
        wait_for(&tunnel, "BBR", |options| options.congestion == "bbr");
        let (source, target) = tunnel.pair();
        programs.extend(transfer(source, target));
        let log = finish(tunnel, programs);
        for line in [
            "connection 1: congestion control bbr in place of cubic: ",
            "connection 1: congestion control bbr in place of cubic: an earlier connection of this migration lost segments",
        ] {
            assert!(log.contains(line), "{log}");
        }
        // It is not changed back and forth.
        assert_eq!(log.matches("congestion control").count(), 2, "{log}");
    });
}

#[test]
fn a_lossy_local_network_is_left_to_the_system() {
    on_link(|link| {
        link.set_loss(0.01);
        let mut tunnel = tunnel(link);
        let (source, target) = tunnel.pair();
        let programs = transfer(source, target);
        // Twice as long as the decision takes on a long path.
        thread::sleep(Duration::from_secs(4));
        for options in sockets(&tunnel.answer["direct"]["port"]) {
            assert_eq!(options.congestion, "cubic", "{options:?}");
            assert!(options.send <= 4 * MIB, "{options:?}");
        }
        let log = finish(tunnel, programs.into());
        assert!(!log.contains("buffer set") && !log.contains("bbr"), "{log}");
    });
}

#[test]
fn the_receive_buffer_of_a_target_whose_kernel_has_a_low_limit_grows() {
    on_link(|link| {
        link.set_round_trip(Duration::from_millis(100));
        // As before Linux 6.16.
        let limit =
            || std::fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 6291456").unwrap();
        link.target().execute(limit);
        let mut tunnel = tunnel(link);
        let port = tunnel.answer["direct"]["port"].clone();
        let (source, target) = tunnel.pair();
        let programs = transfer(source, target);
        let limit = Instant::now() + LIMIT;
        loop {
            let port = port.clone();
            let found = link.target().execute(move || sockets(&port));
            if found.iter().any(|options| options.receive > 12 * MIB) {
                break;
            }
            assert!(Instant::now() < limit, "never a larger buffer: {found:?}");
            thread::sleep(Duration::from_millis(50));
        }
        let seam = tunnel.seam.clone();
        finish(tunnel, programs.into());
        let log = seam.take_listener().end().1;
        let line = "connection 1: receive buffer set to ";
        assert_eq!(log.matches(line).count(), 1, "{log}");
    });
}

/// The bytes that wait in the send queues of this namespace's TCP sockets and were not sent yet, and all
/// that they hold.
fn send_queues() -> (u64, u64) {
    let output = Command::new("ss").args(["-HtinO"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let of_link = text.lines().filter(|line| line.contains(" 10.77.0.2:"));
    let mut sum = (0, 0);
    for line in of_link {
        let words = line.split_whitespace();
        let unsent = words.clone().find_map(|word| word.strip_prefix("notsent:"));
        sum.0 += unsent.map_or(0, |count| count.parse::<u64>().unwrap());
        sum.1 += words.clone().nth(2).unwrap().parse::<u64>().unwrap();
    }
    sum
}

#[test]
fn a_stalled_migration_with_a_large_buffer_keeps_little_unsent_data() {
    on_link(|link| {
        link.set_round_trip(Duration::from_millis(40));
        let fields = json!({ "buffer": 64 * MIB });
        let request = plane_request("tls", &fields);
        let mut tunnel = NegotiatedTunnel::on_plane("tls", link.seam(), &request);
        let (source, target) = tunnel.pair();
        let writer = write_until_failure(&source);
        // The target's program reads nothing. The queue does not grow any more when the window is full.
        let limit = Instant::now() + LIMIT;
        let (mut unsent, mut queued) = (0, 0);
        loop {
            thread::sleep(Duration::from_secs(1));
            let now = send_queues();
            if queued > 0 && now == (unsent, queued) {
                break;
            }
            (unsent, queued) = now;
            assert!(
                Instant::now() < limit,
                "{unsent} of {queued} bytes are unsent"
            );
        }
        // The limit of the socket, and what is written at once.
        assert!(unsent < 5 * MIB, "{unsent} of {queued} bytes are unsent");
        drop((source, target));
        let _ = tunnel.finish();
        writer.join().unwrap();
    });
}
