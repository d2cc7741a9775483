//! Forwards: a local UNIX socket that stands for a socket of the target.
//!
//! A connection is accepted only after the connection to the target is open. Until then it waits in
//! the kernel's queue, from where closing the socket reports `ECONNRESET` to it: an unreachable target
//! never looks like an empty stream.

mod counters;
mod local_socket;
mod transport;

pub(super) use counters::{Total, Traffic};
pub(super) use transport::{Transport, TransportError};

use crate::process::Log;
use crate::relay::Local;
use counters::ForwardCounters;
use local_socket::LocalSocket;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use transport::OpenTransport;

/// Open connections of one forward. Each takes two buffers of a frame. More connections wait in the
/// kernel's queue.
const MAX_CONNECTIONS: usize = 256;

/// Pause before the next attempt when the system has no descriptor or memory left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(500);

/// How long the end of stream is withheld from a local program that has written nothing and received
/// nothing when the connection to the target fails.
///
/// The kernel cannot report a failure to such a program. It must not wait without limit either: QEMU
/// waits like this for the greeting of an NBD server, and meanwhile its guest is stopped.
const WITHHOLD_END: Duration = Duration::from_secs(5);

/// The local socket of a forward cannot be created.
#[derive(Debug, Error)]
#[error("cannot listen on '{path}': {cause}")]
pub(super) struct ListenError {
    path: PathBuf,
    cause: io::Error,
}

/// A forward that listens.
pub(super) struct Forward {
    socket: LocalSocket,
    transport: Transport,
    counters: Arc<ForwardCounters>,
    log: Arc<Log>,
}

impl Forward {
    /// Binds the local socket, and counts the forward.
    pub(super) fn new(
        path: &Path,
        transport: Transport,
        traffic: &Traffic,
        log: Arc<Log>,
    ) -> Result<Self, ListenError> {
        let socket = LocalSocket::bind(path).map_err(|cause| ListenError {
            path: path.to_owned(),
            cause,
        })?;
        Ok(Self {
            socket,
            transport,
            counters: traffic.add_forward(path.display().to_string()),
            log,
        })
    }

    /// Accepts connections until another forward has the path and no connection is waiting. Then
    /// relays the accepted connections to their ends.
    pub(super) async fn run(mut self, replaced: Arc<Notify>) {
        let mut connections = JoinSet::new();
        self.accept(&mut connections, &replaced).await;
        // Removes the socket and releases the control connection.
        drop(self);
        while connections.join_next().await.is_some() {}
    }

    async fn accept(&mut self, connections: &mut JoinSet<()>, replaced: &Notify) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let name = self.socket.path().display().to_string();
        for number in 1_u64.. {
            // The semaphore is never closed.
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            let waited = tokio::select! {
                biased;
                waited = self.socket.connection_pending() => waited,
                () = replaced.notified() => return,
            };
            if let Err(error) = waited {
                self.log
                    .line(format_args!("forward '{name}': cannot wait: {error}"));
                return;
            }
            let (transport, protection) = match self.transport.open().await {
                Ok(open) => open,
                Err(error) => {
                    self.counters.failed();
                    self.log.line(format_args!(
                        "forward '{name}': connection {number}: {error}"
                    ));
                    match self.socket.reset_pending() {
                        Ok(()) => {}
                        Err(error) if is_exhaustion(&error) => sleep(EXHAUSTED_PAUSE).await,
                        Err(error) => {
                            self.log.line(format_args!(
                                "forward '{name}': cannot continue to listen: {error}"
                            ));
                            return;
                        }
                    }
                    continue;
                }
            };
            let Some(local) = self.take_pending(&name, number).await else {
                continue;
            };
            let connection = Connection {
                title: format!("forward '{name}': connection {number}"),
                protection,
                counters: self.counters.clone(),
                log: self.log.clone(),
            };
            connections.spawn(async move {
                connection.relay(local, transport).await;
                drop(permit);
            });
            // Removes ended tasks, so that the set holds only running ones.
            while connections.try_join_next().is_some() {}
        }
    }

    /// Accepts the connection for which a transport is open. None if it is gone.
    async fn take_pending(&self, name: &str, number: u64) -> Option<UnixStream> {
        let mut logged = false;
        loop {
            let error = match self.socket.accept() {
                Ok(local) => return local,
                Err(error) => error,
            };
            if !logged {
                self.log.line(format_args!(
                    "forward '{name}': connection {number}: cannot accept it: {error}"
                ));
                logged = true;
            }
            if !is_exhaustion(&error) {
                return None;
            }
            // The transport stays open, so the next attempt needs one descriptor less.
            sleep(EXHAUSTED_PAUSE).await;
        }
    }
}

/// One accepted connection.
struct Connection {
    /// For the log: the forward and the connection's number.
    title: String,
    /// For the log: the cipher.
    protection: String,
    counters: Arc<ForwardCounters>,
    log: Arc<Log>,
}

impl Connection {
    /// Relays until both ends are closed, and logs the outcome.
    async fn relay(self, local: UnixStream, transport: OpenTransport) {
        let started = Instant::now();
        let bytes = self.counters.connected();
        let local = Local::new(local);
        let result = transport.relay(&local, &bytes).await;
        self.counters.ended(&bytes);
        let end = match &result {
            Ok(()) => "closed".to_owned(),
            Err(error) => {
                self.counters.failed();
                format!("FAILED: {error}")
            }
        };
        let (sent, received) = bytes.bytes();
        let seconds = started.elapsed().as_secs_f64();
        let Self {
            title, protection, ..
        } = &self;
        self.log.line(format_args!(
            "{title}: {end} ({sent} bytes sent, {received} received, {seconds:.1} s, {protection})"
        ));
        match result {
            Ok(()) => local.close(),
            // The program has received nothing, so it cannot mistake the end for a complete stream.
            Err(_) if received == 0 => drop(timeout(WITHHOLD_END, local.fail()).await),
            Err(_) => local.fail().await,
        }
    }
}

/// Whether the system lacks a resource that it may have again later.
fn is_exhaustion(error: &io::Error) -> bool {
    use libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(
        error.raw_os_error(),
        Some(EMFILE | ENFILE | ENOBUFS | ENOMEM)
    )
}
