//! SIGKILL of the connector or the listener at different moments: every program receives an error
//! and not an end of stream, and nothing is left behind.

use serde_json::json;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use testing::namespace::{in_namespace, tcp_sockets};
use testing::seam::{NegotiatedTunnel, Seam, plane_request, plane_request_with, program};
use testing::stream::{
    exchange_bytes, expect_both_fail, expect_reset, expect_write_failure, read_until_end,
    write_until_failure,
};
use testing::{is_gone, pattern, read_to_end, role, signal, state, tcp_source, wait_until};

const PLANES: [(&str, &str); 2] = [("secure", "tls"), ("insecure", "tcp")];

/// More bytes than all buffers in the path hold.
const LENGTH: usize = 16 << 20;

/// In which a slow program reads [`LENGTH`] bytes.
const SLOW: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Connector,
    Listener,
}

/// Runs a test for each plane and each victim, with one connection for a stream and with lanes, in a
/// network namespace where no other process uses the port.
fn for_each_plane_and_victim(test: fn(NegotiatedTunnel, Victim)) {
    in_namespace(move || {
        for (kind, plane) in PLANES {
            for victim in [Victim::Connector, Victim::Listener] {
                for fields in [
                    json!({}),
                    json!({ "lanes": 2, "first_lanes": 2, "dead_peer_timeout": 4 }),
                ] {
                    let seam = Seam::with_listeners(role::listeners());
                    let request = plane_request_with(kind, &fields);
                    test(NegotiatedTunnel::on_plane(plane, seam, &request), victim);
                }
            }
        }
    });
}

fn endpoint(tunnel: &NegotiatedTunnel) -> SocketAddr {
    tcp_source::endpoint(
        &tunnel
            .seam
            .listener
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .opened,
    )
}

fn listener_pid(tunnel: &NegotiatedTunnel) -> u32 {
    tunnel.seam.listener.lock().unwrap().as_ref().unwrap().pid()
}

fn kill(tunnel: &mut NegotiatedTunnel, victim: Victim) {
    match victim {
        Victim::Connector => tunnel.connector.child.kill().unwrap(),
        Victim::Listener => signal("KILL", listener_pid(tunnel)),
    }
}

/// Requires that the survivor continues, reports the death, and ends cleanly, and that nothing is
/// left.
fn assert_survivor_cleans_up(mut tunnel: NegotiatedTunnel, victim: Victim, failed: u64) {
    let endpoint = endpoint(&tunnel);
    match victim {
        Victim::Connector => {
            let directory = tunnel.connector.directory.path().to_owned();
            let ended = tunnel.connector.child.wait().unwrap();
            assert!(!ended.success());
            // The killed connector has left its sockets, which do not accept connections.
            for entry in std::fs::read_dir(directory).unwrap() {
                UnixStream::connect(entry.unwrap().path()).unwrap_err();
            }
            let quiet = tunnel.stat_until(|stat| {
                stat.half_open == 0 && stat.forwards.iter().all(|forward| forward.open == 0)
            });
            let all: u64 = quiet.forwards.iter().map(|forward| forward.failed).sum();
            assert_eq!(all, failed, "{quiet:?}");
            let mut listener = tunnel.seam.take_listener();
            listener.request(&json!({ "op": "close" }));
            let (ended, log) = listener.wait();
            assert!(ended.success(), "{log}");
            assert_eq!(log.matches("FAILED: ").count() as u64, failed, "{log}");
        }
        Victim::Listener => {
            let forward = tunnel.connector.directory.path().join("0.sock");
            let late = UnixStream::connect(forward).unwrap();
            assert!(read_to_end(&late).1.is_err());
            let version = tunnel.connector.request(&json!({ "cmd": "version" }));
            assert_eq!(version["api"], 2);
            let (ended, _) = tunnel.seam.take_listener().wait();
            assert!(!ended.success());
            let (_, finished) = tunnel.finish();
            let log = finished.log;
            assert!(finished.status.success(), "{log}");
            assert_eq!(finished.files, 0);
            let dead = format!("the target's listener at {endpoint} is dead: ");
            assert!(log.contains(&dead), "{log}");
            assert_eq!(log.matches("FAILED: ").count() as u64, failed, "{log}");
        }
    }
    // The port is free without delay, although connections may be in TIME_WAIT.
    TcpListener::bind(endpoint).unwrap();
}

#[test]
fn a_kill_during_the_handshake_resets_the_source_program() {
    for_each_plane_and_victim(|mut tunnel, victim| {
        let (sender, connections) = mpsc::channel();
        let path = program(tunnel.directory.path(), move |stream| {
            let _ = sender.send(stream);
        });
        let remote = path.to_str().unwrap();
        let forward = tunnel.connector.forward(&tunnel.target, remote);
        let port = endpoint(&tunnel).port();
        let heartbeat = established_connections(port);
        // The kernel accepts connections for the stopped listener, which sends nothing.
        let listener = listener_pid(&tunnel);
        signal("STOP", listener);
        wait_until("the listener is stopped", || state(listener) == Some('T'));
        let mut local = UnixStream::connect(forward).unwrap();
        local.write_all(b"request").unwrap();
        wait_until("a second connection", || {
            established_connections(port) > heartbeat
        });
        kill(&mut tunnel, victim);
        if victim == Victim::Connector {
            signal("CONT", listener);
        }
        expect_reset(read_until_end(&local).1);
        if victim == Victim::Connector {
            let stat = tunnel.stat_until(|stat| stat.refused.total() == 1);
            assert_eq!(stat.refused.tls + stat.refused.malformed, 1, "{stat:?}");
        }
        assert!(
            connections.try_recv().is_err(),
            "the program got a connection"
        );
        assert_survivor_cleans_up(tunnel, victim, 0);
    });
}

/// The number of established connections of this namespace with this local port.
fn established_connections(port: u16) -> usize {
    tcp_sockets()
        .iter()
        .filter(|socket| socket.local_port == port && socket.is_established)
        .count()
}

#[test]
fn a_kill_during_transfer_is_an_error_for_every_program() {
    for_each_plane_and_victim(|mut tunnel, victim| {
        let (busy, idle) = (tunnel.pair(), tunnel.pair());
        exchange_bytes(&busy.0, &busy.1);
        exchange_bytes(&idle.0, &idle.1);
        let busy = [busy.0, busy.1].map(|end| (write_until_failure(&end), read_until_end(&end)));
        let idle_readers = [idle.0, idle.1].map(|end| read_until_end(&end).1);
        for (_, (count, _)) in &busy {
            wait_until("data moves", || count.load(Ordering::Relaxed) > LENGTH);
        }
        kill(&mut tunnel, victim);
        for (writer, (_, reader)) in busy {
            expect_both_fail(writer, reader);
        }
        for reader in idle_readers {
            expect_reset(reader);
        }
        assert_survivor_cleans_up(tunnel, victim, 2);
    });
}

#[test]
fn a_kill_after_the_end_of_one_direction_is_not_a_clean_end() {
    for_each_plane_and_victim(|mut tunnel, victim| {
        let (mut source, target) = tunnel.pair();
        source.write_all(&pattern(LENGTH / 16)).unwrap();
        source.shutdown(Shutdown::Write).unwrap();
        let (data, end) = read_to_end(&target);
        end.unwrap();
        assert_eq!(data.len(), LENGTH / 16);
        // All data has arrived, but the source has not received the confirmation.
        kill(&mut tunnel, victim);
        expect_reset(read_until_end(&source).1);
        expect_write_failure(write_until_failure(&target));
        assert_survivor_cleans_up(tunnel, victim, 1);
    });
}

/// What the listener has stored for a slow program reaches it after the source has died. That is no
/// progress of the stream's lanes, which have failed.
#[test]
fn a_dead_source_is_an_error_for_a_program_that_still_reads_stored_data() {
    in_namespace(|| {
        for (kind, plane) in PLANES {
            let seam = Seam::with_listeners(role::listeners());
            let fields = json!({ "lanes": 2, "first_lanes": 2, "dead_peer_timeout": 2 });
            let request = plane_request_with(kind, &fields);
            let mut tunnel = NegotiatedTunnel::on_plane(plane, seam, &request);
            let (source, mut target) = tunnel.pair();
            exchange_bytes(&source, &target);
            let writer = write_until_failure(&source);
            let mut read_slowly = || {
                thread::sleep(SLOW / 100);
                target.read(&mut [0; LENGTH / 100])
            };
            for _ in 0..20 {
                assert!(read_slowly().unwrap() > 0);
            }
            kill(&mut tunnel, Victim::Connector);
            expect_write_failure(writer);
            let dead_since = Instant::now();
            while read_slowly().is_ok_and(|count| count > 0) {
                assert!(dead_since.elapsed() < SLOW, "the program got no error");
            }
            assert_survivor_cleans_up(tunnel, Victim::Connector, 1);
        }
    });
}

/// The worker is killed while another child of it keeps the worker's end of the control socket
/// open.
#[test]
fn a_listener_ends_with_its_worker() {
    in_namespace(|| {
        for (kind, plane) in PLANES {
            let seam = Seam::with_listeners(role::start_worker);
            let mut tunnel = NegotiatedTunnel::on_plane(plane, seam, &plane_request(kind));
            let (busy, idle) = (tunnel.pair(), tunnel.pair());
            exchange_bytes(&busy.0, &busy.1);
            exchange_bytes(&idle.0, &idle.1);
            let busy =
                [busy.0, busy.1].map(|end| (write_until_failure(&end), read_until_end(&end)));
            let idle_readers = [idle.0, idle.1].map(|end| read_until_end(&end).1);
            for (_, (count, _)) in &busy {
                wait_until("data moves", || count.load(Ordering::Relaxed) > LENGTH);
            }
            let (endpoint, worker) = (endpoint(&tunnel), listener_pid(&tunnel));
            let worker_and_listener = tunnel.seam.take_listener();
            let pid = |name: &str| {
                u32::try_from(worker_and_listener.opened[name].as_u64().unwrap()).unwrap()
            };
            let (listener, other) = (pid("listener"), pid("other"));
            assert!(!is_gone(listener));

            signal("KILL", worker);
            wait_until("the listener ends", || is_gone(listener));
            TcpListener::bind(endpoint).unwrap();
            for (writer, (_, reader)) in busy {
                expect_both_fail(writer, reader);
            }
            for reader in idle_readers {
                expect_reset(reader);
            }
            assert!(
                !is_gone(other),
                "the control socket was kept open until now"
            );
            signal("KILL", other);
            let (_, log) = worker_and_listener.wait();
            // This worker has several threads, and the kernel sends the signal when the first of them
            // has ended.
            let reports = [
                "listener: the worker has ended",
                "listener: ended by SIGTERM",
            ];
            assert!(reports.iter().any(|report| log.contains(report)), "{log}");
        }
    });
}
