//! Forwards when the system around them does not stay as it was.

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

/// Sends the name of the socket that was asked for, then what comes, until the client closes.
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

fn hears(mut local: &UnixStream, expected: &str) {
    let mut name = vec![0; expected.len()];
    local.read_exact(&mut name).unwrap();
    assert_eq!(String::from_utf8(name).unwrap(), expected);
}

fn is_reset(local: &UnixStream) {
    let (data, end) = read_to_end(local);
    assert!(data.is_empty());
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_soft_limit_on_descriptors_holds_nobody_up() {
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
        hears(local, "/many");
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
fn a_forward_outlives_a_time_without_descriptors() {
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
    // Each needs two descriptors.
    let locals: Vec<UnixStream> = (0..20)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    while !fs::read_to_string(&log)
        .unwrap()
        .contains("Too many open files")
    {
        assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
    }
    hears(&locals[0], "/many");
    (&locals[0]).write_all(b"still here").unwrap();
    hears(&locals[0], "still here");
    drop(locals);
    hears(&UnixStream::connect(&path).unwrap(), "/many");
}

#[test]
fn a_path_that_was_forwarded_anew_stays_with_the_new_forward() {
    let (asked, was_asked) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let (asked, wait) = (Mutex::new(asked), Mutex::new(wait));
    let target = Target::new(move |request| match request.socket() {
        "/run/mtunnel" => serve_worker(request, |command| {
            if command["path"] == "/old" {
                asked.lock().unwrap().send(()).unwrap();
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
    was_asked.recv().unwrap();
    // As PVE::Tunnel does for the next disk.
    fs::remove_file(&path).unwrap();
    let answer = connector.request(&forward_command(&target, &path, "/new"));
    assert_eq!(answer["success"], true, "{answer}");
    go.send(()).unwrap();
    is_reset(&old);
    hears(&UnixStream::connect(&path).unwrap(), "/new");
    assert_eq!(connector.finish().files, 0);
}

#[test]
fn one_path_serves_any_number_of_disks_one_after_the_other() {
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
        hears(&local, &name);
        // The last one's connection is still open.
        if let Some(before) = before.replace(local) {
            (&before).write_all(b"the rest").unwrap();
            hears(&before, "the rest");
        }
    }
    assert_eq!(connector.finish().files, 0);
}

#[test]
fn names_that_are_taken_do_not_end_a_forward() {
    let target = target();
    let mut connector = Connector::connected(&target);
    let taken = connector
        .directory
        .path()
        .join(format!(".{}", connector.child.id()));
    fs::write(&taken, "another's").unwrap();
    let path = connector.forward(&target, "/refused");
    for _ in 0..3 {
        is_reset(&UnixStream::connect(&path).unwrap());
    }
    assert_eq!(fs::read_to_string(&taken).unwrap(), "another's");
    assert_eq!(connector.finish().files, 1);
}

#[test]
fn connections_outlive_the_socket_that_they_came_by() {
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
    hears(&one, "/one");
    // The next one is refused, and there is no place for a fresh socket.
    let moved = connector.directory.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    is_reset(&UnixStream::connect(&moved).unwrap());
    assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
    (&one).write_all(b"still here").unwrap();
    hears(&one, "still here");
    let log = connector.finish().log;
    assert!(log.contains("forward"), "{log}");
}
