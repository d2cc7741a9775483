//! Direct planes from end to end: the connector as a process, a listener, and a worker's seam
//! between them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use support::connector::Connector;
use support::listener::Listener;
use support::target::{Target, serve_worker, stock_answer};
use support::{pattern, read_out, write_in_pieces};
use tempfile::TempDir;

/// As much as makes every buffer on the way overflow.
const MUCH: usize = 64 << 20;

/// The seam of a target, with what it has opened.
#[derive(Clone, Default)]
struct Seam {
    listener: Arc<Mutex<Option<Listener>>>,
    requests: Arc<Mutex<Vec<Value>>>,
}

impl Seam {
    fn answer(&self, command: &Value) -> Value {
        let direct = &command["direct"];
        if direct.is_null() {
            return stock_answer(command);
        }
        self.requests.lock().unwrap().push(direct.clone());
        let mut listener = self.listener.lock().unwrap();
        let answer = match direct["op"].as_str().unwrap() {
            "hello" => json!({
                "protocol": 1, "oldest": 1, "caps": ["direct-tls", "direct-tcp"],
                "version": "9.9", "something": "of a newer version",
            }),
            "open" => {
                let mut options = direct.clone();
                let fields = options.as_object_mut().unwrap();
                fields.remove("op");
                fields.remove("protocol");
                fields.insert("node".to_owned(), "node".into());
                let opened = Listener::start(options);
                let answer = opened.opened.clone();
                *listener = Some(opened);
                answer
            }
            _ => listener.as_mut().unwrap().ask(direct),
        };
        match answer.get("error") {
            Some(error) => json!({ "success": false, "msg": error }),
            None => json!({ "success": true, "direct": answer }),
        }
    }

    fn target(&self) -> Target {
        let seam = self.clone();
        Target::new(move |request| serve_worker(request, |command| seam.answer(command)))
    }

    fn ops(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let ops = requests
            .iter()
            .map(|request| request["op"].as_str().unwrap().to_owned());
        ops.collect()
    }
}

fn wish(kind: &str) -> Value {
    json!({ "control": true, "cmd": "direct", "data": {
        "migration_type": kind, "migration_network": "127.0.0.0/8", "network": "127.0.0.0/8",
        "source_network": "127.0.0.0/8", "planes": ["tls", "tcp"],
    }})
}

/// A local program of the target, which gets each connection.
fn program(directory: &Path, serve: impl Fn(UnixStream) + Send + 'static) -> PathBuf {
    let path = directory.join("program");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap());
        }
    });
    path
}

struct Crossing {
    seam: Seam,
    target: Target,
    connector: Connector,
    directory: TempDir,
    answer: Value,
}

fn cross(kind: &str) -> Crossing {
    let seam = Seam::default();
    let target = seam.target();
    let mut connector = Connector::connected(&target);
    let answer = connector.ask(&wish(kind));
    Crossing {
        seam,
        target,
        connector,
        directory: tempfile::tempdir().unwrap(),
        answer,
    }
}

#[test]
fn each_plane_carries_much_both_ways_with_half_close_and_tells_of_it() {
    for (kind, plane) in [("secure", "tls"), ("insecure", "tcp")] {
        let mut crossing = cross(kind);
        let answer = &crossing.answer;
        assert_eq!(answer["success"], true, "{answer}");
        assert_eq!(answer["plan"]["plane"], plane, "{answer}");
        assert_eq!(answer["direct"]["plane"], plane, "{answer}");

        let path = program(crossing.directory.path(), |mut stream| {
            thread::spawn(move || {
                let (data, end) = read_out(&stream);
                end.unwrap();
                assert_eq!(data, pattern(MUCH));
                // Only after the end of the one direction, the other.
                write_in_pieces(&mut stream, &pattern(MUCH)).unwrap();
            });
        });
        let local = crossing
            .connector
            .open(&crossing.target, path.to_str().unwrap());
        write_in_pieces(&local, &pattern(MUCH)).unwrap();
        local.shutdown(Shutdown::Write).unwrap();
        let (data, end) = read_out(&local);
        end.unwrap();
        assert!(data == pattern(MUCH), "{plane}: {} bytes", data.len());

        let finished = crossing
            .connector
            .ask(&json!({ "control": true, "cmd": "finish" }));
        let record = &finished["record"];
        assert_eq!(record["plane"], plane, "{finished}");
        assert_eq!(record["sent"], MUCH, "{finished}");
        assert_eq!(record["received"], MUCH, "{finished}");
        assert_eq!(record["failed"], 0, "{finished}");
        assert_eq!(record["refused"]["key"], 0, "{finished}");
        assert_eq!(crossing.seam.ops(), ["hello", "open", "forward", "close"]);
        let ended = crossing.connector.finish();
        assert!(ended.status.success(), "{}", ended.log);
        assert!(ended.log.contains("migration data: plane"), "{}", ended.log);
        assert!(ended.log.contains("record: {"), "{}", ended.log);
        assert!(!ended.log.contains("dead"), "{}", ended.log);
        let key = crossing.seam.listener.lock().unwrap().take().unwrap();
        let key_hex = key.opened["key"].as_str().unwrap().to_owned();
        let (result, log) = key.end();
        result.unwrap();
        assert!(!ended.log.contains(&key_hex) && !log.contains(&key_hex));
    }
}

#[test]
fn a_hundred_connections_at_once_on_several_forwards() {
    for kind in ["secure", "insecure"] {
        let mut crossing = cross(kind);
        let path = program(crossing.directory.path(), |mut stream| {
            thread::spawn(move || {
                let mut request = [0; 4];
                while stream.read_exact(&mut request).is_ok() {
                    stream.write_all(&request).unwrap();
                }
            });
        });
        let remote = path.to_str().unwrap().to_owned();
        let locals: Vec<UnixStream> = (0..4)
            .flat_map(|_| {
                let local = crossing.connector.forward(&crossing.target, &remote);
                (0..25)
                    .map(|_| UnixStream::connect(&local).unwrap())
                    .collect::<Vec<_>>()
            })
            .collect();
        for round in 0..20_u32 {
            for (mut local, index) in locals.iter().zip(0_u32..) {
                local
                    .write_all(&(round * 1000 + index).to_be_bytes())
                    .unwrap();
            }
            for (mut local, index) in locals.iter().zip(0_u32..) {
                let mut answer = [0; 4];
                local.read_exact(&mut answer).unwrap();
                assert_eq!(u32::from_be_bytes(answer), round * 1000 + index);
            }
        }
        drop(locals);
        let mut listener = crossing.seam.listener.lock().unwrap();
        let stat = listener
            .as_mut()
            .unwrap()
            .stat_until(|stat| stat.forwards[0].open == 0);
        // The same socket is one forward of the listener, and the watch is a connection too.
        assert_eq!(
            (stat.forwards.len(), stat.connections),
            (1, 101),
            "{stat:?}"
        );
        assert_eq!(
            (stat.forwards[0].received, stat.forwards[0].failed),
            (8000, 0),
            "{stat:?}"
        );
    }
}
