//! Forwards: a local UNIX socket that stands for one of the target's.
//!
//! A connection is accepted only when its websocket is open. Until then it waits in the kernel's
//! queue, from where closing the socket reports `ECONNRESET` to it: a target that cannot be reached
//! never looks like an empty stream.

use super::Options;
use super::control::Control;
use super::dial::{DialError, Target};
use super::protocol::{self, ForwardData};
use super::socket::LocalSocket;
use super::wire::{Receiver, Sender};
use crate::process::Log;
use crate::relay::{Counters, Local, relay};
use serde_json::{Map, Value};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections at one time on one forward. Each costs two buffers of a frame; more wait in the
/// kernel's queue.
const MAX_CONNECTIONS: usize = 256;

/// How long to wait before trying again when the system has no descriptor left for one more
/// connection.
const EXHAUSTED: Duration = Duration::from_millis(500);

/// Why a forward could not be set up.
#[derive(Debug, Error)]
pub(super) enum ForwardError {
    #[error("cannot listen on '{path}': {cause}")]
    Listen { path: PathBuf, cause: io::Error },
    #[error("cannot forward '{path}': {cause}")]
    Target { path: PathBuf, cause: DialError },
}

/// Why a connection came to nothing.
#[derive(Debug, Error)]
enum OpenError {
    #[error("the control connection is over")]
    NoControl,
    #[error("no answer to the request for a ticket within {0:?}")]
    TimedOut(Duration),
    #[error("the target gives no ticket for '{path}': {cause}")]
    Refused { path: String, cause: String },
    #[error(transparent)]
    Dial(#[from] DialError),
}

/// A forward that listens.
pub(super) struct Forward {
    socket: LocalSocket,
    target: Target,
    ticket: Map<String, Value>,
    control: Control,
    options: Arc<Options>,
    log: Arc<Log>,
}

impl Forward {
    /// Where it listens.
    pub(super) fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Binds the local socket.
    pub(super) fn new(
        data: ForwardData,
        control: Control,
        options: Arc<Options>,
        log: Arc<Log>,
    ) -> Result<Self, ForwardError> {
        let path = data.unix;
        let target = match Target::new(data.target) {
            Ok(target) => target,
            Err(cause) => return Err(ForwardError::Target { path, cause }),
        };
        let socket = match LocalSocket::bind(&path) {
            Ok(socket) => socket,
            Err(cause) => return Err(ForwardError::Listen { path, cause }),
        };
        Ok(Self {
            socket,
            target,
            ticket: data.ticket,
            control,
            options,
            log,
        })
    }

    /// Accepts connections until the path is another forward's and nobody waits any more, then
    /// carries those it has to their ends.
    pub(super) async fn run(mut self, replaced: Arc<Notify>) {
        let mut connections = JoinSet::new();
        self.accept(&mut connections, &replaced).await;
        // The socket goes, and our hold on the control connection.
        drop(self);
        while connections.join_next().await.is_some() {}
    }

    async fn accept(&mut self, connections: &mut JoinSet<()>, replaced: &Notify) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let name = self.socket.path().display().to_string();
        for number in 1_u64.. {
            // The semaphore is never closed.
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let waited = tokio::select! {
                biased;
                waited = self.socket.wait() => waited,
                () = replaced.notified() => return,
            };
            if let Err(error) = waited {
                self.log
                    .line(format_args!("forward '{name}': cannot wait: {error}"));
                return;
            }
            let opened = self.open().await;
            let (sender, receiver, protection) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    self.log.line(format_args!(
                        "forward '{name}': connection {number}: {error}"
                    ));
                    match self.socket.reset() {
                        Ok(()) => {}
                        Err(error) if is_exhaustion(&error) => sleep(EXHAUSTED).await,
                        Err(error) => {
                            self.log
                                .line(format_args!("forward '{name}': cannot listen on: {error}"));
                            return;
                        }
                    }
                    continue;
                }
            };
            let Some(local) = self.take(&name, number).await else {
                continue;
            };
            let log = self.log.clone();
            let title = format!("forward '{name}': connection {number}");
            connections.spawn(async move {
                carry(local, sender, receiver, &title, &protection, &log).await;
                drop(place);
            });
            // Collects what has ended, so that the set holds only what runs.
            while connections.try_join_next().is_some() {}
        }
    }

    /// Takes the connection over for which a websocket is open. None if it has gone.
    async fn take(&self, name: &str, number: u64) -> Option<UnixStream> {
        let mut told = false;
        loop {
            let error = match self.socket.accept() {
                Ok(local) => return local,
                Err(error) => error,
            };
            if !told {
                self.log.line(format_args!(
                    "forward '{name}': connection {number}: cannot accept it: {error}"
                ));
                told = true;
            }
            if !is_exhaustion(&error) {
                return None;
            }
            // Its websocket stays: it is one thing less to find a descriptor for.
            sleep(EXHAUSTED).await;
        }
    }

    /// A fresh ticket and a websocket with it.
    async fn open(&self) -> Result<(Sender, Receiver, String), OpenError> {
        let limit = self.options.ticket_timeout;
        let answer = timeout(
            limit,
            self.control.ask(protocol::ticket_request(&self.ticket)),
        )
        .await
        .map_err(|_| OpenError::TimedOut(limit))?
        .ok_or(OpenError::NoControl)?;
        let ticket = protocol::ticket_answer(&answer).map_err(|cause| {
            let path = self
                .ticket
                .get("path")
                .and_then(Value::as_str)
                .unwrap_or_default();
            OpenError::Refused {
                path: path.to_owned(),
                cause,
            }
        })?;
        Ok(self
            .target
            .dial(Some(ticket.reveal()), &self.options)
            .await?)
    }
}

/// Relays one connection and says how it went.
async fn carry(
    local: UnixStream,
    sender: Sender,
    receiver: Receiver,
    title: &str,
    protection: &str,
    log: &Log,
) {
    let started = Instant::now();
    let counters = Counters::default();
    let local = Local::new(local);
    let result = relay(&local, sender, receiver, &counters).await;
    let end = match &result {
        Ok(()) => "closed".to_owned(),
        Err(error) => format!("FAILED: {error}"),
    };
    let sent = counters.sent.load(Ordering::Relaxed);
    let received = counters.received.load(Ordering::Relaxed);
    let seconds = started.elapsed().as_secs_f64();
    log.line(format_args!(
        "{title}: {end} ({sent} bytes sent, {received} received, {seconds:.1} s, {protection})"
    ));
    match result {
        Ok(()) => local.close(),
        Err(_) => local.fail().await,
    }
}

/// Whether the system lacks something that it may have again later.
fn is_exhaustion(error: &io::Error) -> bool {
    use libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(
        error.raw_os_error(),
        Some(EMFILE | ENFILE | ENOBUFS | ENOMEM)
    )
}
