//! Data through forwards: complete, in both directions, on many connections, in bounded memory.

use serde_json::json;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use testing::connector::Connector;
use testing::target::{Request, Target, close_cleanly, serve_worker, stock_answer};
use testing::{pattern, read_to_end, sha256, write_in_pieces};
use tungstenite::Message;

const MIB: usize = 1 << 20;

/// The bytes sent in each direction.
const LENGTH: usize = 64 * MIB;

/// The memory that two directions of one connection may use, in KiB: the buffers, those of rustls,
/// and a reserve for the allocator.
const MEMORY_PER_CONNECTION: u64 = 8 * 1024;

/// A target whose socket `/echo` echoes, `/source` sends, and `/sink` passes the SHA-256 of the
/// data before the close frame to the channel.
fn target(results: mpsc::Sender<String>) -> Target {
    let results = Mutex::new(results);
    Target::new(move |request| match request.socket() {
        "/run/mtunnel" => serve_worker(request, stock_answer),
        "/echo" => echo(request),
        "/sink" => {
            let result = sha256(&sink(request, || {}));
            results.lock().unwrap().send(result).unwrap();
        }
        "/source" => {
            let mut websocket = request.websocket();
            for piece in pattern(LENGTH).chunks(100_000) {
                websocket.write(Message::binary(piece.to_vec())).unwrap();
            }
            websocket.flush().unwrap();
            close_cleanly(websocket.into_inner());
        }
        other => panic!("{other}"),
    })
}

fn echo(request: Request) {
    let mut websocket = request.websocket();
    loop {
        match websocket.read() {
            Ok(Message::Binary(bytes)) => websocket.send(Message::Binary(bytes)).unwrap(),
            Ok(Message::Close(_)) => return close_cleanly(websocket.into_inner()),
            other => panic!("{other:?}"),
        }
    }
}

/// The data up to the close frame. `before_reading` may wait.
fn sink(request: Request, before_reading: impl FnOnce()) -> Vec<u8> {
    let mut websocket = request.websocket();
    before_reading();
    let mut all = Vec::new();
    loop {
        match websocket.read() {
            Ok(Message::Binary(bytes)) => all.extend_from_slice(&bytes),
            Ok(Message::Close(_)) => return all,
            other => panic!("{other:?} after {} bytes", all.len()),
        }
    }
}

#[test]
fn all_data_reaches_the_target_before_the_close_frame() {
    let (results, result) = mpsc::channel();
    let target = target(results);
    let mut connector = Connector::connected(&target);
    let mut local = connector.open(&target, "/sink");
    let data = pattern(LENGTH);
    write_in_pieces(&mut local, &data).unwrap();
    local.shutdown(Shutdown::Write).unwrap();
    assert_eq!(result.recv().unwrap(), sha256(&data));
    let (rest, end) = read_to_end(&local);
    assert!(rest.is_empty());
    end.unwrap();
    let finished = connector.finish();
    assert!(finished.status.success(), "{}", finished.log);
    assert!(
        finished
            .log
            .contains(&format!("closed ({LENGTH} bytes sent, 0 received")),
        "{}",
        finished.log
    );
}

#[test]
fn all_data_of_the_target_arrives_followed_by_a_clean_end() {
    let target = target(mpsc::channel().0);
    let mut connector = Connector::connected(&target);
    let (data, end) = read_to_end(connector.open(&target, "/source"));
    end.unwrap();
    assert_eq!(sha256(&data), sha256(&pattern(LENGTH)));
}

#[test]
fn both_directions_transfer_at_once() {
    let target = target(mpsc::channel().0);
    let mut connector = Connector::connected(&target);
    let local = connector.open(&target, "/echo");
    let data = Arc::new(pattern(LENGTH));
    let writer = {
        let (data, mut local) = (data.clone(), local.try_clone().unwrap());
        thread::spawn(move || write_in_pieces(&mut local, &data).unwrap())
    };
    let mut back = vec![0; LENGTH];
    (&local).read_exact(&mut back).unwrap();
    writer.join().unwrap();
    assert_eq!(sha256(&back), sha256(&data));
    local.shutdown(Shutdown::Write).unwrap();
    assert!(read_to_end(&local).0.is_empty());
}

#[test]
fn a_program_that_shuts_down_its_reading_side_first_loses_nothing() {
    let (results, result) = mpsc::channel();
    let target = target(results);
    let mut connector = Connector::connected(&target);
    let mut local = connector.open(&target, "/sink");
    local.shutdown(Shutdown::Read).unwrap();
    let data = pattern(MIB);
    local.write_all(&data).unwrap();
    local.shutdown(Shutdown::Write).unwrap();
    assert_eq!(result.recv().unwrap(), sha256(&data));
    // The program uses the control connection before it closes its socket.
    assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
}

#[test]
fn a_stalled_local_reader_stops_the_target_without_more_memory() {
    let target = target(mpsc::channel().0);
    let mut connector = Connector::connected(&target);
    let before = connector.peak_memory();
    let mut local = connector.open(&target, "/source");
    // After the first byte, the rest is ready to be sent and has to wait.
    let mut first = [0; 1];
    local.read_exact(&mut first).unwrap();
    // The commands show that the connector runs, and give it time to read more than it should.
    for _ in 0..2000 {
        connector.request(&json!({ "cmd": "version" }));
    }
    let grown = connector.peak_memory() - before;
    assert!(grown <= MEMORY_PER_CONNECTION, "grew by {grown} KiB");
    let (rest, end) = read_to_end(&local);
    end.unwrap();
    assert_eq!(
        sha256(&[&first[..], &rest].concat()),
        sha256(&pattern(LENGTH))
    );
    let grown = connector.peak_memory() - before;
    assert!(grown <= MEMORY_PER_CONNECTION, "grew by {grown} KiB");
}

#[test]
fn a_stalled_target_stops_the_local_writer_without_more_memory() {
    let (resume, wait) = mpsc::channel::<()>();
    let (results, result) = mpsc::channel();
    let (wait, results) = (Mutex::new(wait), Mutex::new(results));
    let target = Target::new(move |request| match request.socket() {
        "/run/mtunnel" => serve_worker(request, stock_answer),
        _ => {
            let data = sink(request, || wait.lock().unwrap().recv().unwrap());
            results.lock().unwrap().send(sha256(&data)).unwrap();
        }
    });
    let mut connector = Connector::connected(&target);
    let before = connector.peak_memory();
    let local = connector.open(&target, "/stalled");
    local.set_nonblocking(true).unwrap();
    let data = pattern(LENGTH);
    // The buffers of the kernel and of the connector hold some data. Then the socket accepts no
    // more.
    let mut written = 0;
    let mut refused = 0;
    while refused < 2000 {
        assert!(
            written < LENGTH / 2,
            "the target does not read, but {written} bytes were accepted"
        );
        match (&local).write(&data[written..]) {
            Ok(count) => {
                written += count;
                refused = 0;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                refused += 1;
                connector.request(&json!({ "cmd": "version" }));
            }
            Err(error) => panic!("{error}"),
        }
    }
    let grown = connector.peak_memory() - before;
    assert!(grown <= MEMORY_PER_CONNECTION, "grew by {grown} KiB");
    resume.send(()).unwrap();
    local.set_nonblocking(false).unwrap();
    (&local).write_all(&data[written..]).unwrap();
    local.shutdown(Shutdown::Write).unwrap();
    assert_eq!(result.recv().unwrap(), sha256(&data));
}

#[test]
fn each_connection_of_a_forward_has_its_own_ticket() {
    const COUNT: usize = 16;
    let tickets: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = tickets.clone();
    let target = Target::new(move |request| match request.socket() {
        "/run/mtunnel" => {
            let mut made = 0;
            serve_worker(request, move |command| {
                let mut answer = stock_answer(command);
                if command["cmd"] == "ticket" {
                    made += 1;
                    answer["ticket"] = format!("TICKET={made}+ %/&").into();
                }
                answer
            });
        }
        "/echo" => {
            seen.lock().unwrap().push(request.query["ticket"].clone());
            echo(request);
        }
        other => panic!("{other}"),
    });
    let mut connector = Connector::connected(&target);
    let path = connector.forward(&target, "/echo");
    let locals: Vec<UnixStream> = (0..COUNT)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    // All connections are open and transfer data while commands are answered in order.
    let threads: Vec<_> = locals
        .into_iter()
        .enumerate()
        .map(|(number, local)| {
            thread::spawn(move || {
                let data = pattern(MIB + number);
                let mut writer = local.try_clone().unwrap();
                let sent = data.clone();
                let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
                let mut back = vec![0; data.len()];
                (&local).read_exact(&mut back).unwrap();
                writing.join().unwrap();
                assert!(back == data, "connection {number}");
                local
            })
        })
        .collect();
    for number in 0..100 {
        let name = format!("command-{number}");
        connector.send(&json!({ "cmd": name }));
        connector.send(&json!({ "cmd": "version" }));
        assert_eq!(connector.receive()["success"], false);
        assert_eq!(connector.receive()["api"], 2);
    }
    let locals: Vec<UnixStream> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    drop(locals);
    let mut tickets = tickets.lock().unwrap().clone();
    tickets.sort();
    tickets.dedup();
    assert_eq!(tickets.len(), COUNT, "each connection has its own ticket");
    assert!(tickets.contains(&"TICKET=1+ %/&".to_owned()), "{tickets:?}");
}
