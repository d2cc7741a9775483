//! A relay between a UNIX socket and a TCP socket, of which a test holds the other ends.

use pve_tunnel::relay::{Counters, Local, RelayError, reset_on_close, splice};
use std::future::poll_fn;
use std::net::{TcpListener, TcpStream as Far};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as Near;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use tokio::net::{TcpStream, UnixStream};

/// Where the other node is.
pub const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

/// Tells a process of a test program that it is to be the relay.
const ASKED: &str = "RELAY_OF_STANDARD_STREAMS";

/// A relay in a thread.
pub struct Relay {
    pub counters: Arc<Counters>,
    /// How often it has been woken.
    pub polls: Arc<AtomicU64>,
    thread: JoinHandle<Result<(), RelayError>>,
}

impl Relay {
    /// Starts a relay; also gives the local program's end and the other node's.
    pub fn start(address: &str) -> (Near, Far, Self) {
        let ([near, local], [far, wire]) = sockets(address);
        let counters = Arc::<Counters>::default();
        let polls = Arc::<AtomicU64>::default();
        let (counted, polled) = (counters.clone(), polls.clone());
        let thread = thread::spawn(move || carry(local, wire, &counted, &polled));
        let relay = Self {
            counters,
            polls,
            thread,
        };
        (near, far, relay)
    }

    /// Waits until it is over, with both of its sockets closed; how it went.
    pub fn result(self) -> Result<(), RelayError> {
        self.thread.join().unwrap()
    }
}

/// Carries one connection as connector and listener do.
fn carry(local: Near, wire: Far, counters: &Counters, polls: &AtomicU64) -> Result<(), RelayError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    local.set_nonblocking(true).unwrap();
    wire.set_nonblocking(true).unwrap();
    runtime.block_on(async {
        let local = Local::new(UnixStream::from_std(local).unwrap());
        let wire = TcpStream::from_std(wire).unwrap();
        reset_on_close(&wire).unwrap();
        let result = {
            let mut splicing = pin!(splice(&local, &wire, counters));
            poll_fn(|context| {
                polls.fetch_add(1, Ordering::Relaxed);
                splicing.as_mut().poll(context)
            })
            .await
        };
        drop(wire);
        match result {
            Ok(()) => local.close(),
            Err(_) => local.fail().await,
        }
        result
    })
}

/// A relay in a process of its own: this test program again, in which its test `relay_process`
/// calls [`serve`].
pub fn process(address: &str) -> (Child, Near, Far) {
    let ([near, local], [far, wire]) = sockets(address);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "relay_process"])
        .env(ASKED, "1")
        .stdin(Stdio::from(OwnedFd::from(local)))
        .stdout(Stdio::null())
        .stderr(Stdio::from(OwnedFd::from(wire)))
        .spawn()
        .unwrap();
    (child, near, far)
}

/// In a process that [`process`] has started, is the relay. In others, does nothing.
pub fn serve() {
    if std::env::var_os(ASKED).is_none() {
        return;
    }
    let local = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let wire = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
    let polls = AtomicU64::default();
    let _ = carry(local.into(), wire.into(), &Counters::default(), &polls);
}

/// Two connected UNIX sockets and two connected TCP sockets.
fn sockets(address: &str) -> ([Near; 2], [Far; 2]) {
    let (near, local) = Near::pair().unwrap();
    let listener = TcpListener::bind(address).unwrap();
    let far = Far::connect(listener.local_addr().unwrap()).unwrap();
    let (wire, _) = listener.accept().unwrap();
    far.set_nodelay(true).unwrap();
    ([near, local], [far, wire])
}
