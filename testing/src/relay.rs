//! A relay between a UNIX socket and a TCP socket. A test holds the two peer sockets: the near end
//! is the local program's, the far end is the other node's.

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

/// The addresses at which the far end listens, with any port.
pub const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

/// The environment variable that makes [`serve`] run the relay.
const MARKER: &str = "RELAY_OF_STANDARD_STREAMS";

/// A relay in a thread.
pub struct Relay {
    pub counters: Arc<Counters>,
    /// How often the relay was polled.
    pub polls: Arc<AtomicU64>,
    thread: JoinHandle<Result<(), RelayError>>,
}

impl Relay {
    /// Starts a relay. Also returns the near end and the far end.
    pub fn start(address: &str) -> (Near, Far, Self) {
        let ([near, local], [far, connection]) = sockets(address);
        let counters = Arc::<Counters>::default();
        let polls = Arc::<AtomicU64>::default();
        let (counted, polled) = (counters.clone(), polls.clone());
        let thread = thread::spawn(move || run_relay(local, connection, &counted, &polled));
        let relay = Self {
            counters,
            polls,
            thread,
        };
        (near, far, relay)
    }

    /// Waits until the relay has ended and closed both of its sockets. Returns its result.
    pub fn result(self) -> Result<(), RelayError> {
        self.thread.join().unwrap()
    }
}

/// Relays one connection as the connector and the listener do.
fn run_relay(
    local: Near,
    connection: Far,
    counters: &Counters,
    polls: &AtomicU64,
) -> Result<(), RelayError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    local.set_nonblocking(true).unwrap();
    connection.set_nonblocking(true).unwrap();
    runtime.block_on(async {
        let local = Local::new(UnixStream::from_std(local).unwrap());
        let connection = TcpStream::from_std(connection).unwrap();
        reset_on_close(&connection).unwrap();
        let result = {
            let mut splicing = pin!(splice(&local, &connection, counters));
            poll_fn(|context| {
                polls.fetch_add(1, Ordering::Relaxed);
                splicing.as_mut().poll(context)
            })
            .await
        };
        drop(connection);
        match result {
            Ok(()) => local.close(),
            Err(_) => local.fail().await,
        }
        result
    })
}

/// Starts a relay in a process: the same test program, with its test `relay_process`, which calls
/// [`serve`]. Also returns the near end and the far end.
pub fn process(address: &str) -> (Child, Near, Far) {
    let ([near, local], [far, connection]) = sockets(address);
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "relay_process"])
        .env(MARKER, "1")
        .stdin(Stdio::from(OwnedFd::from(local)))
        .stdout(Stdio::null())
        .stderr(Stdio::from(OwnedFd::from(connection)))
        .spawn()
        .unwrap();
    (child, near, far)
}

/// Runs the relay if [`process`] started this process. Otherwise does nothing.
pub fn serve() {
    if std::env::var_os(MARKER).is_none() {
        return;
    }
    let local = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let connection = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
    let polls = AtomicU64::default();
    let _ = run_relay(
        local.into(),
        connection.into(),
        &Counters::default(),
        &polls,
    );
}

/// Two connected UNIX sockets and two connected TCP sockets.
fn sockets(address: &str) -> ([Near; 2], [Far; 2]) {
    let (near, local) = Near::pair().unwrap();
    let listener = TcpListener::bind(address).unwrap();
    let far = Far::connect(listener.local_addr().unwrap()).unwrap();
    let (connection, _) = listener.accept().unwrap();
    far.set_nodelay(true).unwrap();
    ([near, local], [far, connection])
}
