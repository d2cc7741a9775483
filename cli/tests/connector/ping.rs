//! Pings of idle websockets: a proxy between the nodes must not close them as idle.

use crate::in_process::InProcess;
use pve_tunnel::connector::Options;
use serde_json::json;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use testing::target::{Request, Target, close_cleanly, stock_answer};
use tungstenite::Message;

/// Much longer than any step of a test takes: a wait of this length is a failure.
const TIMEOUT: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options {
        ping_interval: Duration::from_millis(50),
        ..Options::default()
    }
}

/// Serves worker and echo, and sends the name of a socket for each ping that it receives there.
/// Pings are answered by tungstenite.
fn serve(request: Request, pings: &mpsc::Sender<String>) {
    let name = request.socket().to_owned();
    let mut websocket = request.websocket();
    let mut line = Vec::new();
    loop {
        match websocket.read() {
            Ok(Message::Ping(payload)) => {
                assert!(payload.len() <= 125, "{payload:?}");
                // Ignored if the test has seen enough.
                let _ = pings.send(name.clone());
            }
            Ok(Message::Binary(bytes)) if name == "/run/mtunnel" => {
                line.extend_from_slice(&bytes);
                if line.ends_with(b"\n") {
                    let command = serde_json::from_slice(&line).unwrap();
                    line.clear();
                    let answer = format!("{}\n", stock_answer(&command));
                    websocket
                        .send(Message::binary(answer.into_bytes()))
                        .unwrap();
                }
            }
            Ok(Message::Binary(bytes)) => websocket.send(Message::Binary(bytes)).unwrap(),
            Ok(Message::Close(_)) => return close_cleanly(websocket.into_inner()),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

#[test]
fn idle_control_and_data_websockets_send_pings_that_count_as_no_data() {
    let (sender, pings) = mpsc::channel();
    let sender = Mutex::new(sender);
    let target = Target::new(move |request| {
        let sender = sender.lock().unwrap().clone();
        serve(request, &sender);
    });
    let mut connector = InProcess::connected(&target, options());
    let mut local = connector.open(&target, "/echo");
    let (mut control, mut data) = (0, 0);
    while control < 3 || data < 3 {
        match pings.recv_timeout(TIMEOUT).unwrap().as_str() {
            "/run/mtunnel" => control += 1,
            _ => data += 1,
        }
    }
    // Pings and pongs between data change nothing.
    for _ in 0..100 {
        local.write_all(b"0123456789").unwrap();
        let mut echo = [0; 10];
        local.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"0123456789");
    }
    assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
    local.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    local.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    let log = connector.finish();
    assert!(log.contains("1000 bytes sent, 1000 received"), "{log}");
}

#[test]
fn nothing_follows_a_close_frame() {
    let (sender, after) = mpsc::channel();
    let sender = Mutex::new(sender);
    let pings = Arc::new(Mutex::new(mpsc::channel().0));
    let target = Target::new(move |request| {
        if request.socket() == "/run/mtunnel" {
            return serve(request, &pings.lock().unwrap().clone());
        }
        let mut tls = request.accept();
        let mut seen = Vec::new();
        // The close frame of code 1000 with a masking key of zero.
        while !seen.ends_with(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]) {
            let mut byte = [0];
            tls.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
        // Several times the interval of the pings.
        tls.sock
            .set_read_timeout(Some(Duration::from_millis(400)))
            .unwrap();
        let mut rest = [0; 64];
        let read = tls.read(&mut rest);
        let quiet = read.as_ref().is_err_and(|error| {
            matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            )
        });
        sender
            .lock()
            .unwrap()
            .send((quiet, format!("{read:?} {rest:?}")))
            .unwrap();
        close_cleanly(tls);
    });
    let mut connector = InProcess::connected(&target, options());
    let local = connector.open(&target, "/half");
    (&local).write_all(b"data").unwrap();
    local.shutdown(Shutdown::Write).unwrap();
    let (quiet, found) = after.recv_timeout(TIMEOUT).unwrap();
    assert!(quiet, "{found}");
    (&local).read_to_end(&mut Vec::new()).unwrap();
    connector.finish();
}
