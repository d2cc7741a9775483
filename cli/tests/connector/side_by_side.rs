//! Connections of one forward that are opened at the same time.

use serde_json::json;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use testing::connector::Connector;
use testing::read_to_end;
use testing::target::{Request, Target, close_cleanly, serve_worker, stock_answer};
use tungstenite::Message;

/// Much longer than a connection takes, and shorter than the connector's limit for an upgrade.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Connections that the connector opens at the same time for one forward.
const AT_ONCE: usize = 8;

/// Requests that wait until a number of them has arrived.
#[derive(Default)]
struct Gathering {
    arrived: Mutex<usize>,
    changed: Condvar,
}

impl Gathering {
    /// Waits until `count` requests have arrived. Returns whether they have.
    fn wait(&self, count: usize) -> bool {
        let mut arrived = self.arrived.lock().unwrap();
        *arrived += 1;
        self.changed.notify_all();
        let (arrived, _) = self
            .changed
            .wait_timeout_while(arrived, TIMEOUT, |arrived| *arrived < count)
            .unwrap();
        *arrived >= count
    }
}

/// Sends one byte and serves the connection to its end.
fn greet(request: Request) {
    let mut websocket = request.websocket();
    websocket.send(Message::binary(vec![b'!'])).unwrap();
    while !matches!(websocket.read(), Ok(Message::Close(_)) | Err(_)) {}
    close_cleanly(websocket.into_inner());
}

fn expect_greeting(mut local: &UnixStream) {
    let mut byte = [0];
    local.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"!");
}

#[test]
fn waiting_connections_are_opened_side_by_side_up_to_a_bound() {
    let gathering = Arc::new(Gathering::default());
    let open = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let seen = most.clone();
    let target = Target::new(move |mut request| {
        if request.socket() == "/run/mtunnel" {
            return serve_worker(request, stock_answer);
        }
        seen.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let gathered = gathering.wait(AT_ONCE);
        open.fetch_sub(1, Ordering::SeqCst);
        match gathered {
            true => greet(request),
            false => request.answer("HTTP/1.1 500 not side by side\r\n\r\n"),
        }
    });
    let mut connector = Connector::connected(&target);
    let path = connector.forward(&target, "/many");
    let locals: Vec<UnixStream> = (0..3 * AT_ONCE)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    locals.iter().for_each(expect_greeting);
    assert_eq!(most.load(Ordering::SeqCst), AT_ONCE);
    drop(locals);
    let log = connector.finish().log;
    assert!(!log.contains("FAILED"), "{log}");
}

/// A target that refuses the second request, which arrives beside others, and every request from
/// `refused` on.
fn refusing(refused: usize) -> Target {
    let gathering = Arc::new(Gathering::default());
    let count = AtomicUsize::new(0);
    Target::new(move |mut request| {
        if request.socket() == "/run/mtunnel" {
            return serve_worker(request, stock_answer);
        }
        let number = count.fetch_add(1, Ordering::SeqCst);
        let gathered = gathering.wait(3);
        match gathered && number != 1 && number < refused {
            true => greet(request),
            false => request.answer("HTTP/1.1 500 no\r\n\r\n"),
        }
    })
}

fn three_connections(connector: &mut Connector, target: &Target) -> Vec<UnixStream> {
    let path = connector.forward(target, "/three");
    let connect = |_| UnixStream::connect(&path).unwrap();
    (0..3).map(connect).collect()
}

#[test]
fn a_connection_that_is_refused_beside_others_is_opened_again_alone() {
    let target = refusing(usize::MAX);
    let mut connector = Connector::connected(&target);
    let locals = three_connections(&mut connector, &target);
    locals.iter().for_each(expect_greeting);
    drop(locals);
    let record = connector.request(&json!({ "control": true, "cmd": "finish" }))["record"].clone();
    assert_eq!(record["failed"], 0, "{record}");
    let log = connector.finish().log;
    assert!(log.contains("500 no; trying again alone"), "{log}");
}

#[test]
fn a_connection_that_is_refused_alone_fails_and_the_others_do_not() {
    let target = refusing(3);
    let mut connector = Connector::connected(&target);
    let locals = three_connections(&mut connector, &target);
    // Every transport reaches the same socket, so the first connections take those that are open.
    expect_greeting(&locals[0]);
    expect_greeting(&locals[1]);
    let (data, end) = read_to_end(&locals[2]);
    assert!(data.is_empty());
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let record = connector.request(&json!({ "control": true, "cmd": "finish" }))["record"].clone();
    assert_eq!(record["failed"], 1, "{record}");
}
