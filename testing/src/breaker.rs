//! A relay in front of a listener that can break each of its connections.

use crate::seam::Seam;
use serde_json::{Value, json};
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The address of the relay. The listener has another one of the same network.
const ADDRESS: &str = "127.0.0.9";

/// How a connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Both ends receive RST.
    Reset,
    /// Both ends receive FIN, without close_notify.
    End,
}

/// The relay.
#[derive(Clone, Default)]
pub struct Breaker {
    connections: Arc<Mutex<Vec<Arc<Connection>>>>,
    bytes: Arc<AtomicU64>,
    /// Whether bytes to the target are lost.
    loses: Arc<AtomicBool>,
    /// How many pieces of them were lost.
    lost: Arc<AtomicUsize>,
}

struct Connection {
    /// Of the source and of the target.
    ends: [TcpStream; 2],
    is_heartbeat: bool,
    is_broken: AtomicBool,
}

impl Breaker {
    /// A seam whose listener is reached through this relay.
    pub fn seam(&self) -> Seam {
        let breaker = self.clone();
        Seam::scripted(move |direct, ours| {
            let mut answer = ours();
            if direct["op"] == "open" {
                breaker.serve(&answer["direct"]);
                answer["direct"]["addresses"] = json!([ADDRESS]);
            }
            answer
        })
    }

    fn serve(&self, open: &Value) {
        let port = u16::try_from(open["port"].as_u64().unwrap()).unwrap();
        let address = open["addresses"][0].as_str().unwrap().to_owned();
        let listener = TcpListener::bind((ADDRESS, port)).unwrap();
        let breaker = self.clone();
        thread::spawn(move || {
            for source in listener.incoming() {
                let target = TcpStream::connect((address.as_str(), port)).unwrap();
                breaker.add(source.unwrap(), target);
            }
        });
    }

    fn add(&self, source: TcpStream, target: TcpStream) {
        for end in [&source, &target] {
            end.set_nodelay(true).unwrap();
        }
        let mut connections = self.connections.lock().unwrap();
        let connection = Arc::new(Connection {
            ends: [source, target],
            is_heartbeat: connections.is_empty(),
            is_broken: AtomicBool::new(false),
        });
        connections.push(connection.clone());
        for [from, to] in [[0, 1], [1, 0]] {
            let (connection, breaker) = (connection.clone(), self.clone());
            thread::spawn(move || connection.copy(from, to, &breaker));
        }
    }

    /// Whether the bytes to the target are lost from now on, apart from those of the heartbeat. The
    /// source's kernel has them acknowledged.
    pub fn lose(&self, loses: bool) {
        self.loses.store(loses, Ordering::Relaxed);
    }

    /// How many pieces of data were lost: frames, if there is time between them.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }

    /// Bytes that have passed in both directions.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The connections so far, the heartbeat included.
    pub fn count(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    /// Breaks connections that are open. The first one of all is the heartbeat.
    pub fn break_some(&self, how: Break, chosen: impl Fn(usize) -> bool) {
        let connections = self.connections.lock().unwrap();
        let mut broken = 0;
        for (index, connection) in connections.iter().enumerate() {
            if chosen(index) && !connection.is_broken.load(Ordering::Relaxed) {
                connection.fail(how);
                broken += 1;
            }
        }
        assert!(broken > 0, "none of {} connections", connections.len());
    }
}

impl Connection {
    fn fail(&self, how: Break) {
        self.is_broken.store(true, Ordering::Relaxed);
        for end in &self.ends {
            if how == Break::Reset {
                SockRef::from(end).set_linger(Some(Duration::ZERO)).unwrap();
            }
            // The copies hold the descriptors. Without a reset, both directions end with FIN.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    fn copy(&self, from: usize, to: usize, breaker: &Breaker) {
        let may_lose = to == 1 && !self.is_heartbeat;
        let (mut from, mut to) = (&self.ends[from], &self.ends[to]);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) if may_lose && breaker.loses.load(Ordering::Relaxed) => {
                    breaker.lost.fetch_add(1, Ordering::Relaxed);
                }
                Ok(count) => {
                    if to.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                    breaker.bytes.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(_) => break,
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}
