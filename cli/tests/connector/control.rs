//! The control connection: every answer belongs to its request, in whatever pieces and however late
//! it arrives.

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

/// Much longer than any step of a test takes: a wait of this length is a failure.
const TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn answers_may_arrive_in_any_pieces() {
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
            // Three answers. The first begins in frames of one byte. Its end and the other two are
            // in one frame.
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
fn a_late_ticket_does_not_delay_answers_of_the_connector() {
    let (requested, request) = mpsc::channel();
    let (resume, wait) = mpsc::channel::<()>();
    let (requested, wait) = (Mutex::new(requested), Mutex::new(wait));
    let timed_out = Arc::new(AtomicBool::new(false));
    let seen = timed_out.clone();
    let target = Target::new(move |request| match request.socket() {
        "/run/mtunnel" => serve_worker(request, |command| {
            if command["cmd"] == "ticket" {
                requested.lock().unwrap().send(()).unwrap();
                let resumed = wait.lock().unwrap().recv_timeout(TIMEOUT);
                seen.store(resumed.is_err(), Ordering::SeqCst);
            }
            stock_answer(command)
        }),
        _ => drop(request.accept()),
    });
    let mut connector = Connector::connected(&target);
    let _local = connector.open(&target, "/one");
    request.recv().unwrap();
    let path = connector.directory.path().join("other");
    let answer = connector.request(&forward_command(&target, &path, "/two"));
    assert_eq!(answer["success"], true, "{answer}");
    assert!(
        !timed_out.load(Ordering::SeqCst),
        "the answer came only after the wait for the ticket"
    );
    resume.send(()).unwrap();
    assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
}

#[test]
fn a_ticket_after_its_timeout_is_not_the_answer_to_another_request() {
    let (resume, wait) = mpsc::channel::<()>();
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
    let mut exchange = |line: Value, answers: bool| -> Value {
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
    exchange(connect, false);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("late");
    assert_eq!(
        exchange(forward_command(&target, &path, "/x"), true)["success"],
        true
    );
    let local = UnixStream::connect(&path).unwrap();
    let (_, end) = read_to_end(local);
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    resume.send(()).unwrap();
    assert_eq!(exchange(json!({ "cmd": "version" }), true)["api"], 2);
    assert_eq!(
        exchange(json!({ "cmd": "?" }), true)["msg"],
        "unknown command"
    );
    input.shutdown(std::net::Shutdown::Write).unwrap();
    connector.join().unwrap().unwrap();
}

#[test]
fn lines_without_a_request_end_the_tunnel() {
    let target = Target::new(|request: Request| {
        let mut websocket = request.websocket();
        while !matches!(websocket.read(), Ok(Message::Binary(_)) | Err(_)) {}
        websocket
            .send(Message::binary(b"{\"api\":2}\n".to_vec()))
            .unwrap();
        // Empty lines, as fast as the connector reads them.
        while websocket
            .send(Message::binary(vec![b'\n'; 131_072]))
            .is_ok()
        {}
    });
    let mut connector = Connector::start();
    connector.connect(&target);
    connector.send(&json!({ "cmd": "version" }));
    let finished = connector.wait();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.log);
    assert!(
        finished
            .log
            .contains("the target sent more than 16 lines that no command requested"),
        "{}",
        finished.log
    );
    assert!(finished.log.lines().count() < 25, "{}", finished.log);
}
