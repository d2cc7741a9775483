//! Forwards: a local UNIX socket that stands for a socket of the target.
//!
//! A connection is accepted only after the connection to the target is open. Until then it waits in
//! the kernel's queue, from where closing the socket reports `ECONNRESET` to it: an unreachable target
//! never looks like an empty stream. Waiting connections are opened side by side: only the requests for
//! tickets have an order.

mod counters;
mod local_socket;
mod queue;
mod transport;

pub(super) use counters::{LimitedBy, Total, Traffic};
pub(super) use transport::{Transport, TransportError};

use crate::guest_socket::Content;
use crate::process::Log;
use crate::relay::Local;
use crate::tuning::{Limit, Observer, State, Tuning};
use counters::ForwardCounters;
use local_socket::LocalSocket;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use transport::{OpenError, OpenTransport};

/// Open connections of one forward. Each takes two buffers of a frame. More connections wait in the
/// kernel's queue.
const MAX_CONNECTIONS: usize = 256;

/// Connections of one forward that are being opened at the same time. Each of them keeps a pveproxy
/// worker busy for a TLS handshake.
const MAX_OPENING: usize = 8;

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
    transport: Arc<Transport>,
    counters: Arc<ForwardCounters>,
    tuning: Arc<Tuning>,
    log: Arc<Log>,
}

impl Forward {
    /// Binds the local socket, and counts the forward with what it is expected to carry.
    pub(super) fn new(
        path: &Path,
        (content, size): (Content, Option<u64>),
        transport: Transport,
        traffic: &Traffic,
        tuning: Arc<Tuning>,
        log: Arc<Log>,
    ) -> Result<Self, ListenError> {
        let socket = LocalSocket::bind(path).map_err(|cause| ListenError {
            path: path.to_owned(),
            cause,
        })?;
        Ok(Self {
            socket,
            transport: Arc::new(transport),
            counters: traffic.add_forward(content, size),
            tuning,
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
        let mut opening = Opening::default();
        let (mut number, mut is_replaced) = (0_u64, false);
        loop {
            let waiting = match self.socket.waiting() {
                Ok(waiting) => waiting,
                Err(error) => return self.log(format_args!("cannot wait: {error}")),
            };
            let free = MAX_CONNECTIONS.saturating_sub(connections.len());
            while opening.tasks.len() < waiting.min(free).min(opening.at_once) {
                number += 1;
                opening.start(open(self.transport.clone(), number));
            }
            if is_replaced && waiting == 0 && opening.tasks.is_empty() {
                return;
            }
            tokio::select! {
                Some(opened) = opening.next(), if !opening.tasks.is_empty() => match opened {
                    Outcome::Open(number, transport, protection) => {
                        let Some(local) = self.take_pending(&mut opening, number).await else {
                            continue;
                        };
                        let connection = Connection {
                            name: self.name(),
                            number,
                            protection,
                            counters: self.counters.clone(),
                            tuning: self.tuning.clone(),
                            log: self.log.clone(),
                        };
                        connections.spawn(connection.relay(local, transport));
                    }
                    Outcome::FailedBesideOthers(reason) => self.log.limited(
                        "connections that could not be opened beside others",
                        format_args!("forward '{}': {reason}; trying again alone", self.name()),
                    ),
                    Outcome::Failed(reason) => {
                        self.counters.failed();
                        self.log.limited(
                            "connections that could not be opened",
                            format_args!("forward '{}': {reason}", self.name()),
                        );
                        if !self.reset_pending().await {
                            return;
                        }
                    }
                },
                // Removes ended tasks, so that the set holds only running ones.
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                arrival = self.socket.arrival() => if let Err(error) = arrival {
                    return self.log(format_args!("cannot wait: {error}"));
                },
                () = replaced.notified(), if !is_replaced => is_replaced = true,
            }
        }
    }

    /// Resets the connections that wait. Returns whether the forward can continue.
    async fn reset_pending(&mut self) -> bool {
        match self.socket.reset_pending() {
            Ok(()) => true,
            Err(error) if is_exhaustion(&error) => {
                sleep(EXHAUSTED_PAUSE).await;
                true
            }
            Err(error) => {
                self.log(format_args!("cannot continue to listen: {error}"));
                false
            }
        }
    }

    fn name(&self) -> String {
        self.socket.path().display().to_string()
    }

    fn log(&self, text: impl Display) {
        self.log
            .line(format_args!("forward '{}': {text}", self.name()));
    }

    /// Accepts the connection for which a transport is open. None if it is gone.
    async fn take_pending(&self, opening: &mut Opening, number: u64) -> Option<UnixStream> {
        let mut logged = false;
        loop {
            let error = match self.socket.accept() {
                Ok(local) => return local,
                Err(error) => error,
            };
            if !logged {
                self.log(format_args!(
                    "connection {number}: cannot accept it: {error}"
                ));
                logged = true;
            }
            if !is_exhaustion(&error) {
                return None;
            }
            // The other transports hold descriptors that are needed here. This one stays open.
            opening.stay_alone().await;
            sleep(EXHAUSTED_PAUSE).await;
        }
    }
}

/// Transports that are being opened.
///
/// A target or a node that is short of something may fail only because there are several at once: the
/// queue of the target's socket may be full, for example. So a failure beside others is not final.
/// The next one is opened alone, and each success permits one more at once.
struct Opening {
    tasks: JoinSet<Opened>,
    /// How many at most, now and ever.
    at_once: usize,
    limit: usize,
    /// Whether there were several since there was none.
    beside_others: bool,
}

/// How opening a transport ended.
enum Outcome {
    Open(u64, OpenTransport, String),
    /// With the connection and the reason.
    FailedBesideOthers(String),
    /// The same.
    Failed(String),
}

impl Opening {
    fn start(&mut self, opening: impl Future<Output = Opened> + Send + 'static) {
        self.tasks.spawn(opening);
        self.beside_others |= self.tasks.len() > 1;
    }

    /// The next transport. None if none is being opened.
    async fn next(&mut self) -> Option<Outcome> {
        let reason = match self.tasks.join_next().await? {
            Ok((number, Ok((transport, protection)))) => {
                self.at_once = self.limit.min(self.at_once + 1);
                self.beside_others &= !self.tasks.is_empty();
                return Some(Outcome::Open(number, transport, protection));
            }
            Ok((number, Err(error))) => format!("connection {number}: {error}"),
            Err(panicked) => format!("a connection failed: {panicked}"),
        };
        self.at_once = 1;
        let beside_others = self.beside_others;
        self.beside_others &= !self.tasks.is_empty();
        Some(match beside_others {
            true => Outcome::FailedBesideOthers(reason),
            false => Outcome::Failed(reason),
        })
    }

    /// Ends all, and permits only one at once from now on.
    async fn stay_alone(&mut self) {
        (self.at_once, self.limit, self.beside_others) = (1, 1, false);
        self.tasks.shutdown().await;
    }
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            at_once: MAX_OPENING,
            limit: MAX_OPENING,
            beside_others: false,
        }
    }
}

/// The number of a connection, and its transport.
type Opened = (u64, Result<(OpenTransport, String), OpenError>);

async fn open(transport: Arc<Transport>, number: u64) -> Opened {
    (number, transport.open().await)
}

/// One accepted connection.
struct Connection {
    /// For the log: the forward.
    name: String,
    number: u64,
    /// For the log: the cipher.
    protection: String,
    counters: Arc<ForwardCounters>,
    tuning: Arc<Tuning>,
    log: Arc<Log>,
}

impl Observer for Connection {
    fn socket_changed(&self, text: &dyn Display) {
        let Self { name, number, .. } = self;
        self.log.limited(
            "changes of sockets",
            format_args!("forward '{name}': connection {number}: {text}"),
        );
    }

    fn limited_by(&self, limit: Limit, time: Duration, _: State) {
        self.counters.limited_by(limit, time);
    }

    fn lane_changed(&self, text: &dyn Display) {
        let Self { name, number, .. } = self;
        self.log.limited(
            "changes of lanes",
            format_args!("forward '{name}': connection {number}: {text}"),
        );
    }
}

impl Connection {
    /// Relays until both ends are closed, and logs the outcome.
    async fn relay(self, local: UnixStream, transport: OpenTransport) {
        let started = Instant::now();
        let local = Arc::new(Local::new(local));
        let bytes = self.counters.connected(&local);
        let tuning = self.tuning.clone();
        let connection = Arc::new(self);
        let result = transport
            .relay(&local, &bytes, &tuning, connection.clone())
            .await;
        let last = connection.counters.ended(&bytes);
        let end = match &result {
            Ok(()) => "closed".to_owned(),
            Err(error) => {
                connection.counters.failed();
                format!("FAILED: {error}")
            }
        };
        let (sent, received) = bytes.bytes();
        let seconds = started.elapsed().as_secs_f64();
        let Self {
            name,
            number,
            protection,
            ..
        } = &*connection;
        // A target that ends connections at once makes a program connect again and again.
        let kind = match &result {
            Ok(()) => "ended connections",
            Err(_) => "connections that failed",
        };
        connection.log.limited(
            kind,
            format_args!(
                "forward '{name}': connection {number}: {end} ({sent} bytes sent, {received} received, {seconds:.1} s, {protection})"
            ),
        );
        if let Some(moved) = last {
            connection.log.limited(
                "forwards whose connections have ended",
                format_args!("forward '{name}': its connections have ended: {moved}"),
            );
        }
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
