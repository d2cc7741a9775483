//! One connection's way in: TLS if the plane has it, the hello, its forward's UNIX socket.

use super::Options;
use super::forwards::{Forwards, Place};
use crate::capability::Plane;
use crate::direct::hello::{CONNECTED, NO_SOCKET, Refusal};
use crate::direct::message::{Refused, Stat};
use crate::direct::watch;
use crate::direct::{Fate, Link, SessionKey, WATCH};
use crate::process::{Log, lock};
use crate::relay::{Local, liveness};
use crate::tls::{Server, TlsError, wire};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{sleep, timeout};

/// Connections in their hello at one time. When one more comes, the oldest goes: an honest hello
/// takes a few round trips, so whoever wants to keep others out must be faster than that, always.
const MAX_HALF_OPEN: usize = 64;

/// Refusals that are logged one by one; after these only each power of two, so that a scan of the
/// port does not fill the log.
const LOGGED_REFUSALS: u64 = 10;

/// For a local program to take the connection that it listens for: half of what the source waits for
/// its status, so that it hears the reason.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait before trying again when the queue of a program is full.
const QUEUE_FULL: Duration = Duration::from_millis(20);

/// Why a connection is not let in.
#[derive(Debug, Error)]
enum Reject {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Hello(#[from] Refusal),
    #[error("no hello within {0:?}")]
    Silent(Duration),
    #[error("there is no forward {0}")]
    Number(u32),
    #[error("its forward has 256 connections already")]
    Crowded,
    #[error("more than 64 connections are in their hello, and it is the oldest")]
    Oldest,
    #[error("'{path}' takes no connection: {cause}")]
    Socket { path: String, cause: io::Error },
    #[error("cannot set up the connection: {0}")]
    Setup(io::Error),
}

/// All that the connections of one migration share.
pub(super) struct Door {
    plane: Plane,
    server: Option<Server>,
    key: SessionKey,
    hello_timeout: Duration,
    dead_peer_timeout: Duration,
    pub(super) forwards: Forwards,
    pub(super) log: Arc<Log>,
    fate: Fate,
    connections: AtomicU64,
    refused: Mutex<Refused>,
    refusals: AtomicU64,
    half_open: Mutex<VecDeque<HalfOpen>>,
    /// A connection is over.
    left: Notify,
}

struct HalfOpen {
    connection: u64,
    peer: SocketAddr,
    task: AbortHandle,
}

impl Door {
    pub(super) fn new(
        options: &Options,
        server: Option<Server>,
        key: SessionKey,
        log: Arc<Log>,
    ) -> Self {
        Self {
            plane: options.plane,
            server,
            key,
            hello_timeout: options.hello_timeout,
            dead_peer_timeout: options.dead_peer_timeout,
            forwards: Forwards::default(),
            log,
            fate: Fate::open(),
            connections: AtomicU64::new(0),
            refused: Mutex::default(),
            refusals: AtomicU64::new(0),
            half_open: Mutex::default(),
            left: Notify::new(),
        }
    }

    /// Takes a new connection. It costs the others nothing, whatever it does.
    pub(super) fn knock(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let door = self.clone();
        let task = tokio::spawn(async move { door.enter(connection, stream, peer).await });
        let mut half_open = lock(&self.half_open);
        half_open.push_back(HalfOpen {
            connection,
            peer,
            task: task.abort_handle(),
        });
        let oldest = (half_open.len() > MAX_HALF_OPEN)
            .then(|| half_open.pop_front())
            .flatten();
        drop(half_open);
        if let Some(oldest) = oldest {
            oldest.task.abort();
            self.reject(oldest.peer, &Reject::Oldest);
        }
    }

    /// Waits until every connection is over, for so long at most.
    pub(super) async fn settle(&self, limit: Duration) {
        let all_over = async {
            loop {
                let left = self.left.notified();
                if self.forwards.are_quiet() {
                    return;
                }
                left.await;
            }
        };
        let _ = timeout(limit, all_over).await;
    }

    /// Ends every connection.
    pub(super) async fn shut(&self) {
        self.fate.seal("the migration is over");
        // Each of them runs once now, and says how far it has come.
        yield_now().await;
    }

    pub(super) fn stat(&self) -> Stat {
        Stat {
            plane: self.plane,
            connections: self.connections.load(Ordering::Relaxed),
            half_open: lock(&self.half_open).len() as u64,
            forwards: self.forwards.stat(),
            refused: *lock(&self.refused),
        }
    }

    async fn enter(self: Arc<Self>, connection: u64, stream: TcpStream, peer: SocketAddr) {
        let greeted = timeout(self.hello_timeout, self.greet(stream)).await;
        lock(&self.half_open).retain(|entry| entry.connection != connection);
        let admitted = match greeted {
            Err(_) => Err(Reject::Silent(self.hello_timeout)),
            Ok(Err(reject)) => Err(reject),
            Ok(Ok((mut link, WATCH))) => match link.answer(CONNECTED).await {
                Ok(()) => return self.watch(link).await,
                Err(error) => Err(Refusal::from(error).into()),
            },
            Ok(Ok((link, number))) => self.admit(link, number).await,
        };
        match admitted {
            Ok((link, local, place)) => {
                self.carry(link, local, &place).await;
                drop(place);
            }
            Err(reject) => self.reject(peer, &reject),
        }
        self.left.notify_waiters();
    }

    /// TLS and the hello; the number of the forward that is wanted.
    async fn greet(&self, stream: TcpStream) -> Result<(Link, u32), Reject> {
        liveness::probe(&stream, self.dead_peer_timeout).map_err(Reject::Setup)?;
        let mut link = match &self.server {
            Some(server) => Link::Tls(Box::new(server.handshake(wire(stream)).await?.into())),
            None => Link::clear(stream).map_err(Reject::Setup)?,
        };
        let number = link.challenge(&self.key).await?;
        Ok((link, number))
    }

    /// Connects to the socket of a source that has proven its right to it.
    async fn admit(&self, mut link: Link, number: u32) -> Result<(Link, Local, Place), Reject> {
        let forward = self.forwards.get(number).ok_or(Reject::Number(number))?;
        let place = forward.enter().ok_or(Reject::Crowded)?;
        let path = &place.forward().path;
        let local = match connect(path).await {
            Ok(stream) => Local::new(stream),
            Err(cause) => {
                let path = path.display().to_string();
                // Whether it hears the reason or not, it is not let in.
                let _ = link.answer(NO_SOCKET).await;
                link.part().await;
                return Err(Reject::Socket { path, cause });
            }
        };
        if let Err(error) = link.answer(CONNECTED).await {
            // The program has its connection by now, and would take the end of that for the end of
            // an empty stream.
            tokio::spawn(async move {
                local.fail().await;
                drop(place);
            });
            return Err(Reject::Hello(error.into()));
        }
        Ok((link, local, place))
    }

    async fn carry(&self, link: Link, local: Local, place: &Place) {
        let number = place.count();
        let started = Instant::now();
        let counters = &place.forward().counters;
        let result = link.carry(&local, counters, &self.fate).await;
        let end = match &result {
            Ok(()) => "closed".to_owned(),
            Err(error) => {
                place.failed();
                format!("FAILED: {error}")
            }
        };
        self.log.line(format_args!(
            "listener: '{}': connection {number}: {end} ({:.1} s)",
            place.forward().path.display(),
            started.elapsed().as_secs_f64()
        ));
        match result {
            Ok(()) => local.close(),
            Err(_) => local.fail().await,
        }
    }

    async fn watch(&self, link: Link) {
        let error = watch::echo(link.into_stream(), self.dead_peer_timeout).await;
        // Otherwise its other connections have ended or broken likewise, each with its own reason.
        if error.is_death_of_node() {
            self.log
                .line(format_args!("listener: the source is dead: {error}"));
            self.fate.seal(format_args!("the source is dead: {error}"));
        }
    }

    fn reject(&self, peer: SocketAddr, reject: &Reject) {
        let mut refused = lock(&self.refused);
        *match reject {
            Reject::Tls(_) => &mut refused.tls,
            Reject::Silent(_) => &mut refused.silent,
            Reject::Hello(Refusal::Malformed(_)) | Reject::Setup(_) => &mut refused.malformed,
            Reject::Hello(Refusal::Key) => &mut refused.key,
            Reject::Number(_) => &mut refused.number,
            Reject::Crowded | Reject::Oldest => &mut refused.crowded,
            Reject::Socket { .. } => &mut refused.socket,
        } += 1;
        drop(refused);
        let count = self.refusals.fetch_add(1, Ordering::Relaxed) + 1;
        if count <= LOGGED_REFUSALS || count.is_power_of_two() {
            self.log.line(format_args!(
                "listener: connection from {peer} refused: {reject} (refusal {count})"
            ));
        }
    }
}

/// Connects to the program that listens there. One whose queue is full is waited for, as on one node:
/// the kernel itself lets only those wait who block.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    let connected = async {
        loop {
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(QUEUE_FULL).await,
                result => return result,
            }
        }
    };
    let late = |_| {
        let text = format!("its queue has been full for {SOCKET_TIMEOUT:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    };
    timeout(SOCKET_TIMEOUT, connected)
        .await
        .unwrap_or_else(late)
}
