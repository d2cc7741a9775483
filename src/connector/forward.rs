//! Forwards: a local UNIX socket that stands for one of the target's.
//!
//! A connection is accepted only when its websocket is open. Until then it waits in the kernel's
//! queue, from where closing the socket reports `ECONNRESET` to it: a target that cannot be reached
//! never looks like an empty stream.

use super::Options;
use super::control::Control;
use super::dial::{DialError, Target};
use super::log::Log;
use super::protocol::{self, ForwardData};
use super::wire::{Receiver, Sender};
use crate::relay::readiness::{shows, watch};
use crate::relay::{Counters, Local, relay};
use nix::poll::PollFlags;
use serde_json::{Map, Value};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections at one time on one forward. Each costs two buffers of a frame; more wait in the
/// kernel's queue.
const MAX_CONNECTIONS: usize = 256;

/// Connections that may wait in the kernel's queue: QEMU opens up to 255 for multifd at once.
const BACKLOG: i32 = 256;

/// How long to wait before trying again when the system has no descriptor left for one more
/// connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

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

    /// Accepts connections until dropped.
    pub(super) async fn run(mut self) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        let name = self.socket.path.display().to_string();
        for number in 1_u64.. {
            // The semaphore is never closed.
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            if let Err(error) = self.socket.wait().await {
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
                    if let Err(error) = self.socket.reset() {
                        self.log
                            .line(format_args!("forward '{name}': cannot listen on: {error}"));
                        return;
                    }
                    continue;
                }
            };
            let Some(local) = self.socket.accept().await else {
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

/// A listening socket that is removed with the value that stands for it.
struct LocalSocket {
    listener: AsyncFd<UnixListener>,
    path: PathBuf,
    identity: (u64, u64),
}

impl LocalSocket {
    fn bind(path: &Path) -> io::Result<Self> {
        let (listener, identity) = listen(path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity,
        })
    }

    /// Waits until somebody connects.
    async fn wait(&self) -> io::Result<()> {
        loop {
            let mut guard = self.listener.readable().await?;
            if shows(self.listener.get_ref(), PollFlags::POLLIN)? {
                return Ok(());
            }
            guard.clear_ready();
        }
    }

    /// Takes a waiting connection over; none if it has gone.
    async fn accept(&self) -> Option<UnixStream> {
        match self.listener.get_ref().accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true).ok()?;
                UnixStream::from_std(stream).ok()
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => {
                sleep(EXHAUSTED).await;
                None
            }
        }
    }

    /// Resets everybody who waits: a new socket takes the path over in one step, and the old one's
    /// queue ends with it.
    fn reset(&mut self) -> io::Result<()> {
        let name = self.path.with_file_name(format!(".{}", std::process::id()));
        let (listener, identity) = listen(&name)?;
        if let Err(error) = fs::rename(&name, &self.path) {
            remove(&name, identity);
            return Err(error);
        }
        self.listener = listener;
        self.identity = identity;
        Ok(())
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        remove(&self.path, self.identity);
    }
}

/// A socket that only its owner can connect to, from the first moment on: permissions are set
/// before it listens. Also gives device and inode of its path.
fn listen(path: &Path) -> io::Result<(AsyncFd<UnixListener>, (u64, u64))> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let metadata = fs::symlink_metadata(path)?;
    let identity = (metadata.dev(), metadata.ino());
    let ready = || {
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(watch(UnixListener::from(socket), Interest::READABLE)?)
    };
    ready()
        .map(|listener| (listener, identity))
        .inspect_err(|_| remove(path, identity))
}

/// Removes a socket's path, unless somebody else's socket is there by now.
fn remove(path: &Path, identity: (u64, u64)) {
    let ours = fs::symlink_metadata(path)
        .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == identity);
    if ours {
        let _ = fs::remove_file(path);
    }
}
