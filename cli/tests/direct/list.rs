//! `pve-tunnel list`: connector and listener publish themselves.
//!
//! Only root can use the directory in `/run`. For other users, the tests report that they were
//! skipped. Other tests have tunnels too, so the processes are found by their IDs.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::sync::mpsc;
use testing::connector::executable;
use testing::namespace::in_namespace;
use testing::seam::{NegotiatedTunnel, Seam, plane_request, program};
use testing::{is_gone, role, signal, wait_until};

fn list(arguments: &[&str]) -> Output {
    Command::new(executable())
        .arg("list")
        .args(arguments)
        .output()
        .unwrap()
}

fn listed() -> Value {
    let output = list(&["--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The tunnels of a process.
fn tunnels_of(listed: &Value, pid: u32) -> Vec<&Value> {
    let tunnels = listed["tunnels"].as_array().unwrap();
    tunnels.iter().filter(|one| one["pid"] == pid).collect()
}

fn is_unanswered(listed: &Value, pid: u32) -> bool {
    let unanswered = listed["unanswered"].as_array().unwrap();
    unanswered.iter().any(|other| *other == pid)
}

fn tunnel() -> NegotiatedTunnel {
    let seam = Seam::with_listeners(role::listeners());
    NegotiatedTunnel::on_plane("tls", seam, &plane_request("secure"))
}

#[test]
fn both_ends_of_a_tunnel_are_listed_while_they_run() {
    in_namespace(|| {
        let mut tunnel = tunnel();
        for command in [
            json!({ "cmd": "disk", "drive": { "size": 1 << 30 } }),
            json!({ "cmd": "config", "conf": "memory: 2048\n" }),
        ] {
            tunnel.connector.request(&command);
        }
        let (sender, connections) = mpsc::channel();
        let directory = tunnel.directory.path();
        let started = program(directory, move |stream| drop(sender.send(stream)));
        let remote = directory.join("200_nbd.migrate");
        std::fs::rename(started, &remote).unwrap();
        let remote = remote.to_str().unwrap();
        let path = tunnel
            .connector
            .forward_at(&tunnel.target, "100_nbd.migrate", remote);
        let mut source = UnixStream::connect(path).unwrap();
        let mut target = connections.recv().unwrap();
        source.write_all(&[7; 1000]).unwrap();
        target.read_exact(&mut [0; 1000]).unwrap();

        let pids = [tunnel.connector.child.id(), tunnel.seam.listener_pid()];
        let listed = listed();
        let [source_end, target_end] = pids.map(|pid| {
            let tunnels = tunnels_of(&listed, pid);
            assert_eq!(tunnels.len(), 1, "{pid}: {listed}");
            tunnels[0].clone()
        });
        let port = &tunnel.answer["direct"]["port"];
        for (end, expected) in [
            (
                &source_end,
                json!({
                    "role": "source", "guest": 100, "peer_guest": null, "plane": "tls",
                    "peer": format!("127.0.0.1:{port}"), "sent": 1000, "received": 0, "rate": 0,
                    "total": 1 << 30, "total_is": "about",
                }),
            ),
            (
                &target_end,
                json!({
                    "role": "target", "guest": 200, "peer_guest": null, "plane": "tls",
                    "peer": "127.0.0.1", "sent": 0, "received": 1000, "rate": 0,
                    "total": null, "total_is": null,
                }),
            ),
        ] {
            for (key, value) in expected.as_object().unwrap() {
                assert_eq!(end[key], *value, "{key}: {end}");
            }
            assert!(end["seconds"].as_f64().unwrap() >= 1.0, "{end}");
        }
        let printed = list(&[]);
        assert!(printed.status.success(), "{printed:?}");
        let printed = String::from_utf8(printed.stdout).unwrap();
        assert!(printed.starts_with("SIDE        GUEST  PLANE"), "{printed}");
        assert!(printed.contains(&pids[0].to_string()), "{printed}");
        assert!(
            printed.lines().all(|line| line.chars().count() <= 80),
            "{printed}"
        );

        drop((source, target));
        tunnel.finish();
        let listed = self::listed();
        for pid in pids {
            assert!(tunnels_of(&listed, pid).is_empty(), "{pid}: {listed}");
            assert!(!is_unanswered(&listed, pid), "{pid}: {listed}");
        }
    });
}

#[test]
fn a_killed_process_is_not_listed_and_a_suspended_one_is_reported() {
    in_namespace(|| {
        let mut tunnel = tunnel();
        let connector = tunnel.connector.child.id();
        let listener = tunnel.seam.listener_pid();
        signal("STOP", connector);
        let suspended = listed();
        assert!(is_unanswered(&suspended, connector), "{suspended}");
        assert_eq!(tunnels_of(&suspended, listener).len(), 1, "{suspended}");
        let printed = String::from_utf8(list(&[]).stdout).unwrap();
        let line = format!("process {connector} does not answer");
        assert!(printed.contains(&line), "{printed}");

        for pid in [connector, listener] {
            signal("KILL", pid);
        }
        tunnel.connector.child.wait().unwrap();
        wait_until("the listener is gone", || is_gone(listener));
        let killed = listed();
        for pid in [connector, listener] {
            assert!(tunnels_of(&killed, pid).is_empty(), "{killed}");
            assert!(!is_unanswered(&killed, pid), "{killed}");
        }
    });
}

#[test]
fn wrong_arguments_are_refused() {
    let output = list(&["everything"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(output.stdout.len(), 0);
}
