//! The protocol on standard input and output that `PVE::Tunnel` uses with
//! `proxmox-websocket-tunnel`.

use serde_json::json;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Mutex, mpsc};
use testing::connector::{Connector, TOKEN, executable, forward_command};
use testing::target::{Target, serve_worker, stock_answer};

fn stock_target() -> Target {
    Target::new(|request| serve_worker(request, stock_answer))
}

#[test]
fn connect_has_no_answer_and_version_returns_that_of_the_worker() {
    let target = stock_target();
    let mut connector = Connector::start();
    connector.connect(&target);
    connector.send(&json!({ "cmd": "version" }));
    assert_eq!(
        connector.receive(),
        json!({ "success": true, "api": 2, "age": 0 })
    );
    let finished = connector.finish();
    assert!(finished.status.success());
    assert_eq!(finished.rest, "");
    let line = target.requests.lock().unwrap()[0].clone();
    assert_eq!(
        line,
        "GET /mtunnelwebsocket?ticket=CONTROL&socket=%2Frun%2Fmtunnel HTTP/1.1"
    );
}

#[test]
fn the_command_works_under_the_name_of_the_stock_helper() {
    let target = stock_target();
    let mut command = Command::new(executable());
    command.arg0("/usr/bin/proxmox-websocket-tunnel");
    let mut connector = Connector::spawn(&mut command);
    connector.connect(&target);
    assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
}

#[test]
fn the_upgrade_has_the_given_headers_and_lines_are_not_changed() {
    let (headers, seen) = mpsc::channel();
    let headers = Mutex::new(headers);
    let target = Target::new(move |request| {
        headers
            .lock()
            .unwrap()
            .send(request.headers["authorization"].clone())
            .unwrap();
        serve_worker(request, Clone::clone);
    });
    let mut connector = Connector::start();
    connector.connect(&target);
    let line = r#"{"cmd":"config","conf":"näme: ☃\n"}"#;
    connector.send_raw(line);
    assert_eq!(
        connector.receive(),
        serde_json::from_str::<serde_json::Value>(line).unwrap()
    );
    assert_eq!(seen.recv().unwrap(), TOKEN);
}

#[test]
fn malformed_input_is_answered_and_the_next_command_works() {
    let target = stock_target();
    let mut connector = Connector::connected(&target);
    let too_long = format!(r#"{{"cmd":"{}"}}"#, "x".repeat(1 << 20));
    let cases = [
        ("", "not JSON"),
        ("not JSON", "not JSON"),
        ("[true]", "invalid command line"),
        ("\u{1}\u{2}", "not JSON"),
        (r#"{"control":"yes"}"#, "wrong type"),
        (
            r#"{"control":true,"cmd":"explode"}"#,
            "unknown control command 'explode'",
        ),
        (r#"{"control":true,"cmd":"forward"}"#, "not a JSON object"),
        (
            r#"{"control":true,"cmd":"connect","data":["wss://x",[]]}"#,
            "not a JSON object",
        ),
        (
            r#"{"control":true,"cmd":"forward","data":{}}"#,
            "missing field",
        ),
        (too_long.as_str(), "longer than 1 MiB"),
    ];
    for (line, expected) in cases {
        connector.send_raw(line);
        let answer = connector.receive();
        assert_eq!(answer["success"], false);
        assert!(
            answer["msg"].as_str().unwrap().contains(expected),
            "{answer}"
        );
        assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
    }
    let finished = connector.finish();
    for (_, expected) in cases {
        assert!(finished.log.contains(expected), "{}", finished.log);
    }
}

#[test]
fn answers_of_worker_and_connector_keep_the_order_of_requests() {
    let target = stock_target();
    let mut connector = Connector::connected(&target);
    for _ in 0..200 {
        connector.send(&json!({ "cmd": "version" }));
        connector.send_raw("nonsense");
        connector.send(&json!({ "cmd": "what" }));
    }
    for _ in 0..200 {
        assert_eq!(connector.receive()["api"], 2);
        assert!(
            connector.receive()["msg"]
                .as_str()
                .unwrap()
                .contains("not JSON")
        );
        assert_eq!(connector.receive()["msg"], "unknown command");
    }
}

#[test]
fn a_forward_that_cannot_listen_is_answered_with_the_reason() {
    let target = stock_target();
    let mut connector = Connector::connected(&target);
    let directory = tempfile::tempdir().unwrap();
    let taken = directory.path().join("taken");
    let _listener = UnixListener::bind(&taken).unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "not a socket").unwrap();
    let cases = [
        (taken.clone(), "Address already in use"),
        (file.clone(), "Address already in use"),
        (
            directory.path().join("missing/x"),
            "No such file or directory",
        ),
        ("/proc/x".into(), "cannot listen on '/proc/x'"),
        (directory.path().join("x".repeat(200)), "cannot listen on"),
    ];
    for (path, expected) in cases {
        let answer = connector.request(&forward_command(&target, &path, "/run/remote"));
        assert_eq!(answer["success"], false);
        assert!(
            answer["msg"].as_str().unwrap().contains(expected),
            "{answer}"
        );
    }
    assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
    connector.finish();
    assert!(taken.exists(), "a foreign socket is not removed");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "not a socket");
}

#[test]
fn the_reason_of_a_worker_that_refuses_a_ticket_is_logged() {
    let target = Target::new(|request| {
        serve_worker(request, |command| match command["cmd"].as_str() {
            Some("ticket") => json!({ "success": false, "msg": "no such socket" }),
            _ => stock_answer(command),
        });
    });
    let mut connector = Connector::connected(&target);
    let local = connector.open(&target, "/run/unknown");
    assert!(testing::read_to_end(&local).1.is_err());
    let log = connector.finish().log;
    assert!(
        log.contains("refuses a ticket for '/run/unknown': no such socket"),
        "{log}"
    );
}

#[test]
fn commands_without_a_connection_are_answered() {
    let target = stock_target();
    let mut connector = Connector::start();
    let answer = connector.request(&json!({ "cmd": "version" }));
    assert!(
        answer["msg"].as_str().unwrap().starts_with("not connected"),
        "{answer}"
    );
    let local = connector.directory.path().join("early");
    let answer = connector.request(&forward_command(&target, &local, "/x"));
    assert_eq!(answer["msg"], "forward: there is no control connection");
    // A connection is possible afterwards.
    connector.connect(&target);
    assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
}

#[test]
fn pending_answers_are_sent_after_the_end_of_input() {
    let target = stock_target();
    let mut connector = Connector::start();
    connector.connect(&target);
    connector.send(&json!({ "cmd": "version" }));
    let finished = connector.finish();
    assert!(finished.status.success(), "{}", finished.log);
    assert!(finished.rest.contains(r#""api":2"#), "{}", finished.rest);
}

#[test]
fn input_may_be_a_file() {
    let target = stock_target();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("commands");
    let connect = json!({ "control": true, "cmd": "connect", "data": {
        "url": target.url("ticket=T&socket=S"), "headers": [], "fingerprint": target.fingerprint.to_string(),
    }});
    std::fs::write(&path, format!("{connect}\n{{\"cmd\":\"version\"}}\n")).unwrap();
    let output = Command::new(executable())
        .arg("connect")
        .stdin(std::fs::File::open(path).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains(r#""api":2"#)
    );
}
