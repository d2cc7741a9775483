//! Commands of the caller do not overtake the data that its programs have sent before.

use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use testing::cable::plane_request;
use testing::link::{Link, on_link};
use testing::seam::NegotiatedTunnel;
use testing::stream::exchange_bytes;
use testing::wait_until;

/// The request by which an NBD client disconnects, which has no answer.
const DISCONNECT: &[u8] = &[0x25; 28];

/// The connection of the target's NBD server, until the server closes it.
type Server = Arc<Mutex<Option<UnixStream>>>;

/// A tunnel whose path takes longer than the control connection, and the server that `nbdstop` ends.
fn tunnel(link: &Link, plane: &str, fields: &Value) -> (NegotiatedTunnel, Server) {
    let server = Server::default();
    let stopped = server.clone();
    let seam = link.seam().with_worker(move |command| {
        let is_stop = command["cmd"] == "nbdstop";
        is_stop.then(|| {
            drop(stopped.lock().unwrap().take());
            json!({ "success": true })
        })
    });
    let tunnel = NegotiatedTunnel::on_plane(plane, seam, &plane_request(plane, fields));
    link.set_round_trip(Duration::from_millis(400));
    (tunnel, server)
}

/// Serves a connection until its client disconnects, or it is stopped.
fn serve(server: &Server) {
    let mut request = Vec::new();
    loop {
        let mut connection = server.lock().unwrap();
        let Some(stream) = &mut *connection else {
            return;
        };
        let mut bytes = [0; DISCONNECT.len()];
        match stream.read(&mut bytes) {
            Ok(count) => request.extend_from_slice(&bytes[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        if request == DISCONNECT {
            *connection = None;
            return;
        }
        drop(connection);
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_server_of_a_disk_is_stopped_after_its_client_has_disconnected() {
    for (plane, fields) in [
        ("tls", json!({})),
        ("tcp", json!({})),
        ("tls", json!({ "lanes": 2, "first_lanes": 2 })),
    ] {
        on_link(move |link| {
            let (mut tunnel, server) = tunnel(link, plane, &fields);
            let (mut source, target) = tunnel.pair_at("100_nbd.migrate");
            exchange_bytes(&source, &target);
            target.set_nonblocking(true).unwrap();
            *server.lock().unwrap() = Some(target);
            let running = server.clone();
            let serving = thread::spawn(move || serve(&running));
            source.write_all(DISCONNECT).unwrap();
            drop(source);
            let answer = tunnel.connector.request(&json!({ "cmd": "nbdstop" }));
            assert_eq!(answer["success"], true, "{answer}");
            serving.join().unwrap();
            wait_until("the connection has ended", || {
                let lines = tunnel.connector.logged();
                lines
                    .iter()
                    .any(|(_, line)| line.contains("its connections have ended"))
            });
            let (record, ended) = tunnel.finish();
            assert_eq!(record["failed"], 0, "{plane}: {record}\n{}", ended.log);
        });
    }
}

/// It may be the client that waits for the server.
#[test]
fn a_client_that_is_connected_delays_nothing() {
    on_link(|link| {
        let (mut tunnel, _server) = tunnel(link, "tls", &json!({}));
        let (source, target) = tunnel.pair_at("100_nbd.migrate");
        exchange_bytes(&source, &target);
        let started = Instant::now();
        tunnel.connector.request(&json!({ "cmd": "nbdstop" }));
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{:?}",
            started.elapsed()
        );
    });
}

/// The path has failed: the caller waits for a limited time.
#[test]
fn data_that_does_not_arrive_delays_the_command_for_a_limited_time() {
    on_link(|link| {
        let (mut tunnel, _server) = tunnel(link, "tls", &json!({}));
        let (mut source, target) = tunnel.pair_at("100_nbd.migrate");
        exchange_bytes(&source, &target);
        link.set_loss(1.0);
        source.write_all(DISCONNECT).unwrap();
        drop(source);
        let started = Instant::now();
        tunnel.connector.request(&json!({ "cmd": "nbdstop" }));
        let took = started.elapsed();
        let expected = Duration::from_secs(2)..Duration::from_secs(10);
        assert!(expected.contains(&took), "{took:?}");
    });
}
