//! The end of streams: data that was sent arrives, and a truncated stream never has a clean end.

use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::{Mutex, mpsc};
use testing::connector::Connector;
use testing::target::{Request, Target, Tls, close_cleanly, serve_worker, stock_answer};
use testing::{pattern, read_to_end};

const LENGTH: usize = 64 << 20;

/// A target that serves its worker, and every other socket by `script`.
fn target(script: impl Fn(Request) + Send + Sync + 'static) -> Target {
    Target::new(move |request| match request.socket() {
        "/run/mtunnel" => serve_worker(request, stock_answer),
        _ => script(request),
    })
}

/// A binary frame of a server: not masked.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x82];
    match payload.len() {
        short @ 0..=125 => bytes.push(short as u8),
        middle @ 126..=0xffff => {
            bytes.push(126);
            bytes.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(127);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// Sends TCP FIN without close_notify, as pveproxy does when it truncates a stream.
fn bare_fin(tls: Tls) {
    let (_, tcp) = tls.into_parts();
    tcp.shutdown(Shutdown::Write).unwrap();
    // The connector closes its end after the FIN.
    let _ = read_to_end(&tcp);
}

/// Reads frames up to the close frame. Returns the number of payload bytes. The masking key is
/// zero.
fn read_until_close(tls: &mut Tls) -> usize {
    let mut total = 0;
    loop {
        let mut head = [0; 2];
        tls.read_exact(&mut head).unwrap();
        let length = match head[1] & 0x7f {
            126 => {
                let mut bytes = [0; 2];
                tls.read_exact(&mut bytes).unwrap();
                u64::from(u16::from_be_bytes(bytes))
            }
            127 => {
                let mut bytes = [0; 8];
                tls.read_exact(&mut bytes).unwrap();
                u64::from_be_bytes(bytes)
            }
            short => u64::from(short),
        };
        let mut payload = vec![0; length as usize + 4];
        tls.read_exact(&mut payload).unwrap();
        if head[0] == 0x88 {
            return total;
        }
        assert_eq!(head[0], 0x82, "FIN, binary");
        assert!(head[1] & 0x80 != 0, "masked");
        assert!(length <= 131_072);
        assert_eq!(payload[..4], [0; 4], "over TLS the key is zero");
        total += length as usize;
    }
}

#[test]
fn a_truncated_stream_is_an_error_for_a_program_that_has_written() {
    let target = target(|request| {
        let mut tls = request.accept();
        let data = pattern(LENGTH);
        for piece in data.chunks(131_072) {
            tls.write_all(&frame(piece)).unwrap();
        }
        tls.flush().unwrap();
        bare_fin(tls);
    });
    let mut connector = Connector::connected(&target);
    let mut local = connector.open(&target, "/cut");
    local.write_all(b"request").unwrap();
    let (data, end) = read_to_end(&local);
    assert_eq!(
        data.len(),
        LENGTH,
        "data before the truncation is delivered"
    );
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let finished = connector.finish();
    assert!(
        finished
            .log
            .contains("without an end of stream: data may be missing"),
        "{}",
        finished.log
    );
}

#[test]
fn a_truncated_stream_has_no_end_for_a_program_that_only_reads() {
    let (truncated, truncation) = mpsc::channel();
    let truncated = Mutex::new(truncated);
    let target = target(move |request| {
        let mut tls = request.accept();
        tls.write_all(&frame(b"part of it")).unwrap();
        tls.flush().unwrap();
        bare_fin(tls);
        truncated.lock().unwrap().send(()).unwrap();
    });
    let mut connector = Connector::connected(&target);
    let mut local = connector.open(&target, "/cut");
    let mut part = [0; 10];
    local.read_exact(&mut part).unwrap();
    truncation.recv().unwrap();
    // The connector has received the end and could have forwarded it by mistake.
    assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
    local.set_nonblocking(true).unwrap();
    assert_eq!(
        local.read(&mut part).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    // When the program writes, it receives the error.
    local.set_nonblocking(false).unwrap();
    local.write_all(b"?").unwrap();
    assert_eq!(
        local.read(&mut part).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[test]
fn a_stream_that_stops_inside_a_frame_is_truncated_even_with_close_notify() {
    let target = target(|request| {
        let mut tls = request.accept();
        let whole = frame(&pattern(1000));
        tls.write_all(&whole[..500]).unwrap();
        close_cleanly(tls);
    });
    let mut connector = Connector::connected(&target);
    let mut local = connector.open(&target, "/cut");
    local.write_all(b"request").unwrap();
    assert_eq!(
        read_to_end(&local).1.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[test]
fn a_close_frame_from_the_target_is_a_clean_end_and_is_answered() {
    let (answered, answer) = mpsc::channel();
    let answered = Mutex::new(answered);
    let target = target(move |request| {
        let mut tls = request.accept();
        tls.write_all(&frame(b"all of it")).unwrap();
        tls.write_all(&[0x88, 2, 0x03, 0xe8]).unwrap();
        tls.flush().unwrap();
        read_until_close(&mut tls);
        answered.lock().unwrap().send(()).unwrap();
    });
    let mut connector = Connector::connected(&target);
    let (data, end) = read_to_end(connector.open(&target, "/closes"));
    assert_eq!(data, b"all of it");
    end.unwrap();
    answer.recv().unwrap();
}

#[test]
fn an_end_without_close_notify_after_our_close_frame_is_not_an_error() {
    let target = target(|request| {
        let mut tls = request.accept();
        assert_eq!(read_until_close(&mut tls), LENGTH);
        // A target that needs time to write the data to its socket answers late. The connection has
        // to stay open.
        tls.write_all(&frame(b"late answer")).unwrap();
        tls.flush().unwrap();
        bare_fin(tls);
    });
    let mut connector = Connector::connected(&target);
    let mut local = connector.open(&target, "/sink");
    local.write_all(&pattern(LENGTH)).unwrap();
    local.shutdown(Shutdown::Write).unwrap();
    let (answer, end) = read_to_end(&local);
    assert_eq!(answer, b"late answer");
    end.unwrap();
    let finished = connector.finish();
    assert!(!finished.log.contains("FAILED"), "{}", finished.log);
}

#[test]
fn a_target_that_closes_while_we_send_is_an_error() {
    let target = target(|request| {
        let tls = request.accept();
        drop(tls);
    });
    let mut connector = Connector::connected(&target);
    let mut local = connector.open(&target, "/gone");
    let data = pattern(LENGTH);
    assert!(
        local.write_all(&data).is_err(),
        "all buffers together hold less than 64 MiB"
    );
}

#[test]
fn a_malformed_frame_ends_only_its_connection() {
    let target = target(|request| match request.socket() {
        "/wrong" => {
            let mut tls = request.accept();
            // A masked frame, which a server must not send.
            tls.write_all(&[0x82, 0x81, 0, 0, 0, 0, b'x']).unwrap();
            tls.flush().unwrap();
            let _ = read_to_end(&mut tls);
        }
        _ => {
            let mut tls = request.accept();
            tls.write_all(&frame(b"fine")).unwrap();
            close_cleanly(tls);
        }
    });
    let mut connector = Connector::connected(&target);
    let mut wrong = connector.open(&target, "/wrong");
    wrong.write_all(b"request").unwrap();
    assert_eq!(
        read_to_end(&wrong).1.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    let (data, end) = read_to_end(connector.open(&target, "/fine"));
    assert_eq!(data, b"fine");
    end.unwrap();
    let finished = connector.finish();
    assert!(
        finished.log.contains("the server sent a masked frame"),
        "{}",
        finished.log
    );
}

#[test]
fn a_modified_tls_record_is_an_error_even_after_our_close_frame() {
    let target = target(|request| {
        let mut tls = request.accept();
        read_until_close(&mut tls);
        tls.write_all(&frame(b"half of it")).unwrap();
        tls.flush().unwrap();
        let (_, mut tcp) = tls.into_parts();
        // A record of application data that is not encrypted with a key of this connection.
        tcp.write_all(&[0x17, 3, 3, 0, 32]).unwrap();
        tcp.write_all(&[0x55; 32]).unwrap();
        let _ = read_to_end(&tcp);
    });
    let mut connector = Connector::connected(&target);
    let mut local = connector.open(&target, "/tampered");
    local.write_all(b"request").unwrap();
    local.shutdown(Shutdown::Write).unwrap();
    let (data, end) = read_to_end(&local);
    // Data received together with the wrong record may be lost. No other data arrives.
    assert!(b"half of it".starts_with(&data), "{data:?}");
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let log = connector.finish().log;
    assert!(
        log.contains("receiving from the other node failed"),
        "{log}"
    );
}

#[test]
fn a_refused_connection_is_reset_and_the_next_one_works() {
    let refuse = Mutex::new(true);
    let target = Target::new(move |mut request| match request.socket() {
        "/run/mtunnel" => serve_worker(request, stock_answer),
        _ if std::mem::replace(&mut *refuse.lock().unwrap(), false) => {
            request.answer("HTTP/1.1 500 unable to connect to socket\r\n\r\n");
        }
        _ => {
            let mut tls = request.accept();
            tls.write_all(&frame(b"now")).unwrap();
            close_cleanly(tls);
        }
    });
    let mut connector = Connector::connected(&target);
    let path = connector.forward(&target, "/late");
    let (data, end) = read_to_end(UnixStream::connect(&path).unwrap());
    assert!(data.is_empty());
    assert_eq!(
        end.unwrap_err().kind(),
        ErrorKind::ConnectionReset,
        "not an empty stream"
    );
    let (data, end) = read_to_end(UnixStream::connect(&path).unwrap());
    assert_eq!(data, b"now");
    end.unwrap();
    let finished = connector.finish();
    assert!(
        finished.log.contains("500 unable to connect to socket"),
        "{}",
        finished.log
    );
}

/// Requires that only the owner can access local sockets, and that they are removed at this end.
fn assert_sockets_removed(end: impl FnOnce(&mut Connector)) {
    let target = target(|request| drop(request.accept()));
    let mut connector = Connector::connected(&target);
    for remote in ["/one", "/two"] {
        let path = connector.forward(&target, remote);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    end(&mut connector);
    assert_eq!(connector.wait().files, 0);
}

#[test]
fn sockets_are_removed_at_the_end_of_input() {
    assert_sockets_removed(Connector::close_input);
}

#[test]
fn sockets_are_removed_on_a_signal() {
    for signal in ["TERM", "INT", "HUP"] {
        assert_sockets_removed(|connector| {
            let pid = connector.child.id().to_string();
            assert!(
                Command::new("kill")
                    .args(["-s", signal, &pid])
                    .status()
                    .unwrap()
                    .success()
            );
        });
    }
}

#[test]
fn sockets_are_removed_when_the_control_connection_is_lost() {
    assert_sockets_removed(|connector| {
        connector.send(&json!({ "cmd": "disconnect" }));
    });
}

#[test]
fn a_killed_connector_is_an_error_for_a_program_that_has_written() {
    let (arrived, arrival) = mpsc::channel();
    let arrived = Mutex::new(arrived);
    let target = target(move |request| {
        let mut tls = request.accept();
        let mut frame = [0; 7];
        tls.read_exact(&mut frame).unwrap();
        arrived.lock().unwrap().send(()).unwrap();
        let _ = read_to_end(&mut tls);
    });
    let mut connector = Connector::connected(&target);
    let mut local = connector.open(&target, "/any");
    local.write_all(b"x").unwrap();
    arrival.recv().unwrap();
    connector.child.kill().unwrap();
    assert_eq!(
        read_to_end(&local).1.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[test]
fn a_lost_control_connection_ends_the_connector_with_a_reason() {
    let target = Target::new(|request| {
        let tls = request.accept();
        let (_, tcp): (_, TcpStream) = tls.into_parts();
        tcp.shutdown(Shutdown::Both).unwrap();
    });
    let mut connector = Connector::start();
    connector.connect(&target);
    let finished = connector.wait();
    assert!(!finished.status.success());
    assert!(
        finished.log.contains("the control connection was cut off"),
        "{}",
        finished.log
    );
}
