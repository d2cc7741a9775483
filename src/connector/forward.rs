//! Forwards: a local UNIX socket that stands for one of the target's.
//!
//! A connection is accepted only when its way to the target is open. Until then it waits in the
//! kernel's queue, from where closing the socket reports `ECONNRESET` to it: a target that cannot be
//! reached never looks like an empty stream.

use super::Options;
use super::control::Control;
use super::dial::{DialError, Target};
use super::direct::{Direct, EntryError};
use super::protocol::{self, AskError, ForwardData};
use super::socket::LocalSocket;
use super::traffic::Flow;
use super::wire::{Receiver, Sender};
use crate::direct::message::Registered;
use crate::direct::{Link, LinkError};
use crate::process::Log;
use crate::relay::{Local, relay};
use crate::secret::Secret;
use serde_json::{Map, Value, json};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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

/// How long a local program that waits for the first byte, and has written none itself, is kept from
/// an end of stream when the target is gone. The kernel cannot tell it of a failure, and it must not
/// wait for ever: QEMU waits so for an NBD server's greeting, and its guest stands still meanwhile.
const SPEECHLESS: Duration = Duration::from_secs(5);

/// Why a forward could not be set up.
#[derive(Debug, Error)]
pub(super) enum ForwardError {
    #[error("cannot listen on '{path}': {cause}")]
    Listen { path: PathBuf, cause: io::Error },
    #[error("cannot forward '{path}': {cause}")]
    Target { path: PathBuf, cause: DialError },
    #[error("cannot forward '{path}': {cause}")]
    Register { path: PathBuf, cause: AskError },
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
    #[error("{endpoint}: {cause}")]
    Direct {
        endpoint: SocketAddr,
        cause: EntryError,
    },
}

/// How the connections of a forward reach the target's socket.
pub(super) enum Route {
    /// By a websocket and a ticket each.
    Websocket {
        target: Box<Target>,
        ticket: Map<String, Value>,
        control: Control,
        options: Arc<Options>,
    },
    /// By a connection to the listener each.
    Direct { direct: Arc<Direct>, number: u32 },
}

/// A way to the target's socket that is open.
enum Opened {
    Websocket(Sender, Receiver),
    Direct(Link, Arc<Direct>),
}

impl Route {
    pub(super) fn websocket(
        data: ForwardData,
        control: Control,
        options: Arc<Options>,
    ) -> Result<Self, ForwardError> {
        let path = data.unix;
        let target = Target::new(data.target)
            .map(Box::new)
            .map_err(|cause| ForwardError::Target { path, cause })?;
        Ok(Self::Websocket {
            target,
            ticket: data.ticket,
            control,
            options,
        })
    }

    /// Registers the target's socket with the listener.
    pub(super) async fn direct(
        data: ForwardData,
        direct: Arc<Direct>,
        control: &Control,
    ) -> Result<Self, ForwardError> {
        let request = json!({ "op": "forward", "path": data.ticket.get("path") });
        match protocol::ask(control, &request).await {
            Ok(Registered { number }) => Ok(Self::Direct { direct, number }),
            Err(cause) => Err(ForwardError::Register {
                path: data.unix,
                cause,
            }),
        }
    }

    /// Opens the way, and says what protects it.
    async fn open(&self) -> Result<(Opened, String), OpenError> {
        match self {
            Self::Websocket {
                target,
                ticket,
                control,
                options,
            } => {
                let fresh = fresh_ticket(ticket, control, options.ticket_timeout).await?;
                let (sender, receiver, protection) =
                    target.dial(Some(fresh.reveal()), options).await?;
                Ok((Opened::Websocket(sender, receiver), protection.cipher))
            }
            Self::Direct { direct, number } => {
                let refused = |cause| OpenError::Direct {
                    endpoint: direct.endpoint(),
                    cause,
                };
                let link = direct.connect(*number).await.map_err(refused)?;
                let cipher = direct.cipher().to_owned();
                Ok((Opened::Direct(link, direct.clone()), cipher))
            }
        }
    }
}

async fn fresh_ticket(
    ticket: &Map<String, Value>,
    control: &Control,
    limit: Duration,
) -> Result<Secret, OpenError> {
    let answer = timeout(limit, control.ask(protocol::ticket_request(ticket)))
        .await
        .map_err(|_| OpenError::TimedOut(limit))?
        .ok_or(OpenError::NoControl)?;
    protocol::ticket_answer(&answer).map_err(|cause| {
        let path = ticket
            .get("path")
            .and_then(Value::as_str)
            .unwrap_or_default();
        OpenError::Refused {
            path: path.to_owned(),
            cause,
        }
    })
}

/// A forward that listens.
pub(super) struct Forward {
    socket: LocalSocket,
    route: Route,
    flow: Arc<Flow>,
    log: Arc<Log>,
}

impl Forward {
    /// Binds the local socket.
    pub(super) fn new(
        path: &Path,
        route: Route,
        flow: Arc<Flow>,
        log: Arc<Log>,
    ) -> Result<Self, ForwardError> {
        let socket = LocalSocket::bind(path).map_err(|cause| ForwardError::Listen {
            path: path.to_owned(),
            cause,
        })?;
        Ok(Self {
            socket,
            route,
            flow,
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
            let (opened, protection) = match self.route.open().await {
                Ok(opened) => opened,
                Err(error) => {
                    self.flow.failed();
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
            let (flow, log) = (self.flow.clone(), self.log.clone());
            let title = format!("forward '{name}': connection {number}");
            connections.spawn(async move {
                carry(local, opened, &title, &protection, &flow, &log).await;
                drop(place);
            });
            // Collects what has ended, so that the set holds only what runs.
            while connections.try_join_next().is_some() {}
        }
    }

    /// Takes the connection over for which a way is open. None if it has gone.
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
            // Its way stays open: it is one thing less to find a descriptor for.
            sleep(EXHAUSTED).await;
        }
    }
}

/// Relays one connection and says how it went.
async fn carry(
    local: UnixStream,
    opened: Opened,
    title: &str,
    protection: &str,
    flow: &Flow,
    log: &Log,
) {
    let started = Instant::now();
    let counters = flow.connected();
    let local = Local::new(local);
    let result = match opened {
        Opened::Websocket(sender, receiver) => relay(&local, sender, receiver, &counters)
            .await
            .map_err(LinkError::from),
        Opened::Direct(link, direct) => link.carry(&local, &counters, direct.fate()).await,
    };
    flow.ended(&counters);
    let end = match &result {
        Ok(()) => "closed".to_owned(),
        Err(error) => {
            flow.failed();
            format!("FAILED: {error}")
        }
    };
    let (sent, received) = counters.bytes();
    let seconds = started.elapsed().as_secs_f64();
    log.line(format_args!(
        "{title}: {end} ({sent} bytes sent, {received} received, {seconds:.1} s, {protection})"
    ));
    match result {
        Ok(()) => local.close(),
        // Nothing of a stream has arrived, so it cannot be taken for a whole one.
        Err(_) if received == 0 => drop(timeout(SPEECHLESS, local.fail()).await),
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
