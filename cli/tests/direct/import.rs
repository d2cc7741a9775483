//! The result of a disk import after its direct connections were lost: the worker receives every
//! query, so that it learns the volume, and the caller receives an error.

use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testing::connector::Connector;
use testing::seam::{NegotiatedTunnel, Seam, plane_request};
use testing::{role, signal, wait_until};

/// A tunnel, and the status that the worker reports for its import.
fn tunnel() -> (NegotiatedTunnel, Arc<Mutex<&'static str>>) {
    let status = Arc::new(Mutex::new("pending"));
    let reported = status.clone();
    let seam = Seam::with_listeners(role::listeners()).with_worker(move |command| {
        match command["cmd"].as_str() {
            Some("query-disk-import") => match *reported.lock().unwrap() {
                "none" => Some(json!({ "success": false, "msg": "no disk import running" })),
                status => Some(json!({ "success": true, "status": status })),
            },
            Some("disk-import" | "stop" | "nbdstop" | "unlock" | "quit") => {
                Some(json!({ "success": true }))
            }
            _ => None,
        }
    });
    let tunnel = NegotiatedTunnel::on_plane("tls", seam, &plane_request("secure"));
    (tunnel, status)
}

fn query(connector: &mut Connector) -> Value {
    connector.request(&json!({ "cmd": "query-disk-import" }))
}

fn kill_listener(tunnel: &NegotiatedTunnel) {
    signal("KILL", tunnel.seam.listener_pid());
    wait_until("the connector detects it", || {
        let lines = tunnel.connector.logged();
        lines.iter().any(|(_, line)| line.contains("is dead: "))
    });
}

const LOST: &str = "the data on its way to the target is lost: the target's listener at ";

#[test]
fn the_worker_receives_queries_until_the_import_is_over() {
    let (mut tunnel, status) = tunnel();
    assert_eq!(query(&mut tunnel.connector)["status"], "pending");
    kill_listener(&tunnel);
    assert_eq!(query(&mut tunnel.connector)["status"], "pending");
    for over in ["complete", "error", "none"] {
        *status.lock().unwrap() = over;
        let answer = query(&mut tunnel.connector);
        assert_eq!(answer["success"], false, "{over}: {answer}");
        let message = answer["msg"].as_str().unwrap();
        assert!(message.starts_with(LOST), "{over}: {message}");
    }
    let received = tunnel.seam.received();
    let queries = received.iter().filter(|name| *name == "query-disk-import");
    assert_eq!(queries.count(), 5, "{received:?}");
}

#[test]
fn a_dead_listener_does_not_block_commands_that_clean_up() {
    let (mut tunnel, _) = tunnel();
    kill_listener(&tunnel);
    for name in ["stop", "nbdstop", "unlock", "quit"] {
        let answer = tunnel.connector.request(&json!({ "cmd": name }));
        assert_eq!(answer["success"], true, "{name}: {answer}");
    }
}

#[test]
fn a_clean_up_closes_the_listener_and_learns_the_volume_of_an_import_before_quit() {
    for (status, queried) in [("pending", true), ("complete", false)] {
        let (mut tunnel, reported) = tunnel();
        let (mut source, _target) = tunnel.pair();
        std::io::Write::write_all(&mut source, b"part of a disk").unwrap();
        tunnel.connector.request(&json!({ "cmd": "disk-import" }));
        *reported.lock().unwrap() = status;
        assert_eq!(query(&mut tunnel.connector)["status"], status);

        // Both lines at once: the caller may be killed before the first answer.
        let finish = json!({
            "control": true, "cmd": "finish", "id": "7", "data": { "cleanup": true },
        });
        let started = std::time::Instant::now();
        tunnel.connector.send(&finish);
        tunnel.connector.send(&json!({ "cmd": "quit" }));
        let answer = tunnel.connector.receive();
        assert_eq!(answer["id"], "7", "{answer}");
        assert_eq!(answer["success"], true, "{answer}");
        assert_eq!(tunnel.connector.receive(), json!({ "success": true }));
        // The listener waits 2 s for open connections.
        assert!(started.elapsed() < Duration::from_millis(1900));

        let received = tunnel.seam.received();
        let last = received
            .iter()
            .rev()
            .take_while(|name| *name != "disk-import");
        let mut last: Vec<_> = last.map(String::as_str).collect();
        last.reverse();
        let mut expected = vec!["query-disk-import", "close"];
        expected.extend(queried.then_some("query-disk-import"));
        expected.push("quit");
        assert_eq!(last, expected, "{status}");
    }
}
