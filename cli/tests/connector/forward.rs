//! Forwards when descriptors, paths and names around them change.

use serde_json::json;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::{Mutex, mpsc};
use testing::connector::{Connector, executable, forward_command};
use testing::read_to_end;
use testing::target::{Request, Target, close_cleanly, serve_worker, stock_answer};
use tungstenite::Message;

/// Sends the name of the requested socket, then echoes until the client closes.
fn name_and_echo(request: Request) {
    let name = request.socket().to_owned();
    let mut websocket = request.websocket();
    websocket.send(Message::binary(name.into_bytes())).unwrap();
    loop {
        match websocket.read() {
            Ok(Message::Binary(bytes)) => websocket.send(Message::Binary(bytes)).unwrap(),
            Ok(Message::Close(_)) => return close_cleanly(websocket.into_inner()),
            _ => return,
        }
    }
}

/// A target that refuses sockets whose name begins with `/refused`.
fn target() -> Target {
    Target::new(|mut request| match request.socket() {
        "/run/mtunnel" => serve_worker(request, stock_answer),
        name if name.starts_with("/refused") => request.answer("HTTP/1.1 500 no\r\n\r\n"),
        _ => name_and_echo(request),
    })
}

fn expect_text(mut local: &UnixStream, expected: &str) {
    let mut name = vec![0; expected.len()];
    local.read_exact(&mut name).unwrap();
    assert_eq!(String::from_utf8(name).unwrap(), expected);
}

fn expect_reset(local: &UnixStream) {
    let (data, end) = read_to_end(local);
    assert!(data.is_empty());
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_soft_limit_on_descriptors_does_not_limit_connections() {
    let target = target();
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -Sn 24; exec "$0" connect"#]);
    command.arg(executable());
    let mut connector = Connector::spawn(&mut command);
    connector.connect(&target);
    assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
    let path = connector.forward(&target, "/many");
    let locals: Vec<UnixStream> = (0..30)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    for local in &locals {
        expect_text(local, "/many");
    }
    drop(locals);
    let finished = connector.finish();
    assert!(
        !finished.log.contains("Too many open files"),
        "{}",
        finished.log
    );
}

#[test]
fn a_forward_recovers_when_descriptors_are_available_again() {
    let target = target();
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -n 24; exec "$0" connect 2>"$1""#]);
    command.arg(executable()).arg(&log);
    let mut connector = Connector::spawn(&mut command);
    connector.connect(&target);
    assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
    let path = connector.forward(&target, "/many");
    // Each connection needs two descriptors.
    let locals: Vec<UnixStream> = (0..20)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    while !fs::read_to_string(&log)
        .unwrap()
        .contains("Too many open files")
    {
        assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
    }
    expect_text(&locals[0], "/many");
    (&locals[0]).write_all(b"still here").unwrap();
    expect_text(&locals[0], "still here");
    drop(locals);
    expect_text(&UnixStream::connect(&path).unwrap(), "/many");
}

#[test]
fn a_path_that_is_forwarded_again_belongs_to_the_new_forward() {
    let (requested, request_received) = mpsc::channel();
    let (resume, wait) = mpsc::channel::<()>();
    let (requested, wait) = (Mutex::new(requested), Mutex::new(wait));
    let target = Target::new(move |request| match request.socket() {
        "/run/mtunnel" => serve_worker(request, |command| {
            if command["path"] == "/old" {
                requested.lock().unwrap().send(()).unwrap();
                wait.lock().unwrap().recv().unwrap();
                return json!({ "success": false, "msg": "gone" });
            }
            stock_answer(command)
        }),
        _ => name_and_echo(request),
    });
    let mut connector = Connector::connected(&target);
    let path = connector.forward(&target, "/old");
    let old = UnixStream::connect(&path).unwrap();
    request_received.recv().unwrap();
    // PVE::Tunnel does this for the next disk.
    fs::remove_file(&path).unwrap();
    let answer = connector.request(&forward_command(&target, &path, "/new"));
    assert_eq!(answer["success"], true, "{answer}");
    resume.send(()).unwrap();
    expect_reset(&old);
    expect_text(&UnixStream::connect(&path).unwrap(), "/new");
    assert_eq!(connector.finish().files, 0);
}

#[test]
fn one_path_serves_many_disks_in_sequence() {
    let target = target();
    let mut connector = Connector::connected(&target);
    let path = connector.directory.path().join("storage");
    let mut before: Option<UnixStream> = None;
    for disk in 0..260 {
        let name = format!("/disk-{disk}");
        let _ = fs::remove_file(&path);
        let answer = connector.request(&forward_command(&target, &path, &name));
        assert_eq!(answer["success"], true, "{answer}");
        let local = UnixStream::connect(&path).unwrap();
        expect_text(&local, &name);
        // The connection for the previous disk is still open.
        if let Some(before) = before.replace(local) {
            (&before).write_all(b"the rest").unwrap();
            expect_text(&before, "the rest");
        }
    }
    assert_eq!(connector.finish().files, 0);
}

#[test]
fn a_foreign_file_with_a_temporary_name_does_not_end_a_forward() {
    let target = target();
    let mut connector = Connector::connected(&target);
    let taken = connector
        .directory
        .path()
        .join(format!(".{}", connector.child.id()));
    fs::write(&taken, "a foreign file").unwrap();
    let path = connector.forward(&target, "/refused");
    for _ in 0..3 {
        expect_reset(&UnixStream::connect(&path).unwrap());
    }
    assert_eq!(fs::read_to_string(&taken).unwrap(), "a foreign file");
    assert_eq!(connector.finish().files, 1);
}

#[test]
fn connections_outlive_the_local_socket_that_accepted_them() {
    let target = Target::new({
        let refuse = Mutex::new(false);
        move |mut request| match request.socket() {
            "/run/mtunnel" => serve_worker(request, stock_answer),
            _ if std::mem::replace(&mut *refuse.lock().unwrap(), true) => {
                request.answer("HTTP/1.1 500 no\r\n\r\n");
            }
            _ => name_and_echo(request),
        }
    });
    let mut connector = Connector::connected(&target);
    let path = connector.forward(&target, "/one");
    let one = UnixStream::connect(&path).unwrap();
    expect_text(&one, "/one");
    // The next connection is refused, and the path for a new socket does not exist.
    let moved = connector.directory.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    expect_reset(&UnixStream::connect(&moved).unwrap());
    assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
    (&one).write_all(b"still here").unwrap();
    expect_text(&one, "still here");
    let log = connector.finish().log;
    assert!(log.contains("forward"), "{log}");
}

#[test]
fn a_target_that_refuses_every_connection_does_not_fill_the_log() {
    const CONNECTIONS: usize = 60;
    let target = target();
    let mut connector = Connector::connected(&target);
    let path = connector.forward(&target, "/refused");
    for _ in 0..CONNECTIONS {
        expect_reset(&UnixStream::connect(&path).unwrap());
    }
    let log = connector.finish().log;
    let refusals = log.lines().filter(|line| line.contains("500 no")).count();
    assert!((1..=21).contains(&refusals), "{refusals}: {log}");
    let unlogged = format!(
        "connections that could not be opened: {} more lines",
        CONNECTIONS - refusals
    );
    assert!(log.contains(&unlogged), "{log}");
}
