//! The control connection: every answer goes to whoever asked, however and whenever it comes.

use pve_tunnel::connector::{self, Options};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;
use testing::connector::{Connector, forward_command};
use testing::read_to_end;
use testing::target::{Request, Target, serve_worker, stock_answer};
use tungstenite::Message;

/// Far more than anything here takes; who still waits then waits for something that never comes.
const NEVER: Duration = Duration::from_secs(10);

#[test]
fn answers_come_in_any_pieces() {
    let target = Target::new(|request: Request| {
        let mut websocket = request.websocket();
        let mut lines = 0;
        while let Ok(message) = websocket.read() {
            let Message::Binary(bytes) = message else {
                continue;
            };
            lines += bytes.iter().filter(|&&byte| byte == b'\n').count();
            if lines < 3 {
                continue;
            }
            // Three answers: the first byte by byte, the other two in one frame with its end.
            let text = b"{\"api\":2}\n{\"two\":2}\n{\"three\":3}\n";
            for byte in &text[..9] {
                websocket.write(Message::binary(vec![*byte])).unwrap();
            }
            websocket.write(Message::binary(Vec::new())).unwrap();
            websocket.send(Message::binary(text[9..].to_vec())).unwrap();
            lines = 0;
        }
    });
    let mut connector = Connector::start();
    connector.connect(&target);
    for _ in 0..10 {
        for _ in 0..3 {
            connector.send(&json!({ "cmd": "version" }));
        }
        assert_eq!(connector.receive(), json!({ "api": 2 }));
        assert_eq!(connector.receive(), json!({ "two": 2 }));
        assert_eq!(connector.receive(), json!({ "three": 3 }));
    }
}

#[test]
fn a_ticket_that_is_long_in_coming_holds_up_no_answer_of_our_own() {
    let (asked, was_asked) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let (asked, wait) = (Mutex::new(asked), Mutex::new(wait));
    let gave_up = Arc::new(AtomicBool::new(false));
    let seen = gave_up.clone();
    let target = Target::new(move |request| match request.socket() {
        "/run/mtunnel" => serve_worker(request, |command| {
            if command["cmd"] == "ticket" {
                asked.lock().unwrap().send(()).unwrap();
                let went = wait.lock().unwrap().recv_timeout(NEVER);
                seen.store(went.is_err(), Ordering::SeqCst);
            }
            stock_answer(command)
        }),
        _ => drop(request.accept()),
    });
    let mut connector = Connector::connected(&target);
    let _local = connector.open(&target, "/one");
    was_asked.recv().unwrap();
    let path = connector.directory.path().join("other");
    let answer = connector.request(&forward_command(&target, &path, "/two"));
    assert_eq!(answer["success"], true, "{answer}");
    assert!(!gave_up.load(Ordering::SeqCst), "it waited for the ticket");
    go.send(()).unwrap();
    assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
}

#[test]
fn a_ticket_that_comes_too_late_is_nobody_elses_answer() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let target = Target::new(move |request| {
        serve_worker(request, |command| {
            if command["cmd"] == "ticket" {
                wait.lock().unwrap().recv().unwrap();
            }
            stock_answer(command)
        });
    });
    let options = Options {
        ticket_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let (input, theirs) = UnixStream::pair().unwrap();
    let connector = thread::spawn(move || {
        let output: OwnedFd = theirs.try_clone().unwrap().into();
        connector::run(theirs.into(), output, None, &options)
    });
    let mut output = BufReader::new(input.try_clone().unwrap());
    let mut ask = |line: Value, answers: bool| -> Value {
        (&input).write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::from("null");
        if answers {
            answer.clear();
            output.read_line(&mut answer).unwrap();
        }
        serde_json::from_str(&answer).unwrap()
    };
    let data = json!({
        "url": target.url("socket=%2Frun%2Fmtunnel"),
        "fingerprint": target.fingerprint.to_string(),
    });
    let connect = json!({ "control": true, "cmd": "connect", "data": data });
    ask(connect, false);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("late");
    assert_eq!(
        ask(forward_command(&target, &path, "/x"), true)["success"],
        true
    );
    let local = UnixStream::connect(&path).unwrap();
    let (_, end) = read_to_end(local);
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    go.send(()).unwrap();
    assert_eq!(ask(json!({ "cmd": "version" }), true)["api"], 2);
    assert_eq!(ask(json!({ "cmd": "?" }), true)["msg"], "unknown command");
    input.shutdown(std::net::Shutdown::Write).unwrap();
    connector.join().unwrap().unwrap();
}
