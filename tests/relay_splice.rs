//! The kernel's relay between a local socket and a TCP socket.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use pve_tunnel::relay::{Counters, Local, RelayError, arm, splice};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream as Far};
use std::os::unix::net::UnixStream as Near;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use tokio::net::{TcpStream, UnixStream};

const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];
const BULK: usize = 64 << 20;

/// A relay in a thread of its own, between the two ends that a test holds.
struct Relay {
    near: Near,
    far: Far,
    counters: Arc<Counters>,
    thread: JoinHandle<Result<(), RelayError>>,
}

fn relay(address: &str) -> Relay {
    let (near, ours) = Near::pair().unwrap();
    let listener = TcpListener::bind(address).unwrap();
    let far = Far::connect(listener.local_addr().unwrap()).unwrap();
    let (wire, _) = listener.accept().unwrap();
    far.set_nodelay(true).unwrap();
    let counters = Arc::<Counters>::default();
    let counted = counters.clone();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            ours.set_nonblocking(true).unwrap();
            wire.set_nonblocking(true).unwrap();
            let local = Local::new(UnixStream::from_std(ours).unwrap());
            let wire = TcpStream::from_std(wire).unwrap();
            arm(&wire).unwrap();
            let result = splice(&local, &wire, &counted).await;
            drop(wire);
            match result {
                Ok(()) => local.close(),
                Err(_) => local.fail().await,
            }
            result
        })
    });
    Relay {
        near,
        far,
        counters,
        thread,
    }
}

/// Bytes in which a piece that is lost, doubled or moved shows.
fn pattern(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 4);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn read_all(mut from: impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).unwrap();
    all
}

#[test]
fn bulk_crosses_both_ways_at_once() {
    for address in LOOPBACKS {
        let relay = relay(address);
        let (up, down) = (pattern(BULK, 1), pattern(BULK, 2));
        thread::scope(|scope| {
            scope.spawn(|| {
                (&relay.near).write_all(&up).unwrap();
                relay.near.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(|| {
                (&relay.far).write_all(&down).unwrap();
                relay.far.shutdown(Shutdown::Write).unwrap();
            });
            let at_far = scope.spawn(|| read_all(&relay.far));
            assert!(read_all(&relay.near) == down);
            assert!(at_far.join().unwrap() == up);
        });
        relay.thread.join().unwrap().unwrap();
        assert_eq!(relay.counters.sent.load(Ordering::Relaxed), BULK as u64);
        assert_eq!(relay.counters.received.load(Ordering::Relaxed), BULK as u64);
    }
}

#[test]
fn a_reset_is_an_error_and_never_an_end() {
    for address in LOOPBACKS {
        let mut relay = relay(address);
        relay.near.write_all(b"request").unwrap();
        relay.far.read_exact(&mut [0; 7]).unwrap();
        relay.far.write_all(b"part of an answer").unwrap();
        relay.near.read_exact(&mut [0; 17]).unwrap();
        let far = socket2::SockRef::from(&relay.far);
        far.set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(relay.far);
        assert!(matches!(
            relay.thread.join().unwrap(),
            Err(RelayError::Truncated)
        ));
        let error = relay.near.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}
