//! What happens to an accepted connection: TLS if the plane has it, the handshake, then the UNIX
//! socket of its forward.

use super::Options;
use super::forwards::{Forwards, MAX_CONNECTIONS, Permit};
use super::half_open::{HalfOpen, MAX_HALF_OPEN};
use super::heartbeat_slot::{Decision, HeartbeatSlot};
use super::presence::Presence;
use crate::direct::handshake::{CONNECTED, HandshakeRefusal, NO_SOCKET, SECOND_HEARTBEAT};
use crate::direct::message::{Refused, Stat};
use crate::direct::{HEARTBEAT, Link, PeerLiveness, SessionKey, heartbeat};
use crate::plane::Plane;
use crate::process::Log;
use crate::relay::Local;
use crate::system::{keepalive, lock};
use crate::tls::{Server, TlsError};
use crate::tuning::{Limit, Observer, Settings, Tuning};
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{sleep, timeout};

/// How long a local program may take to accept its connection: half of the time that the source
/// waits for the status, so that the source receives the reason.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause before the next attempt when the accept queue of a local program is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(20);

/// Why a connection is refused.
#[derive(Debug, Error)]
enum Refusal {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Handshake(#[from] HandshakeRefusal),
    #[error("no handshake within {0:?}")]
    Silent(Duration),
    #[error("there is no forward {0}")]
    Number(u32),
    #[error("its forward already has {MAX_CONNECTIONS} connections")]
    Crowded,
    #[error(
        "more than {MAX_HALF_OPEN} connections are in their handshake, and it is the oldest one of the address with the most of them"
    )]
    HalfOpen,
    #[error("the migration already has a heartbeat")]
    SecondHeartbeat,
    #[error("'{path}' does not accept a connection: {cause}")]
    Socket { path: String, cause: io::Error },
    #[error("cannot set up the connection: {0}")]
    Setup(io::Error),
}

impl Refusal {
    /// Strangers must not prevent that refused connections of the source are logged.
    fn kind_of_line(&self) -> &'static str {
        match self {
            Self::Number(_) | Self::Crowded | Self::SecondHeartbeat | Self::Socket { .. } => {
                "listener: refused connections of the source"
            }
            _ => "listener: refused connections of unproven peers",
        }
    }
}

/// What all connections of one migration share.
pub(super) struct Acceptor {
    plane: Plane,
    server: Option<Server>,
    key: SessionKey,
    handshake_timeout: Duration,
    dead_peer_timeout: Duration,
    pub(super) forwards: Forwards,
    pub(super) log: Arc<Log>,
    liveness: PeerLiveness,
    tuning: Tuning,
    pub(super) presence: Presence,
    connections: AtomicU64,
    refused: Mutex<Refused>,
    refusals: AtomicU64,
    half_open: Mutex<HalfOpen<Accepted>>,
    /// The value is notified when another connection replaces the heartbeat.
    heartbeat: Mutex<HeartbeatSlot<Arc<Notify>>>,
    /// The address of the last heartbeat.
    source: Mutex<Option<IpAddr>>,
    /// Notified when a connection has ended or failed.
    ended: Notify,
}

/// A connection whose handshake is not over.
struct Accepted {
    peer: SocketAddr,
    task: AbortHandle,
}

impl Acceptor {
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
            handshake_timeout: options.handshake_timeout,
            dead_peer_timeout: options.dead_peer_timeout,
            forwards: Forwards::default(),
            log,
            liveness: PeerLiveness::alive(options.dead_peer_timeout),
            tuning: Tuning::new(Settings {
                congestion: options.congestion,
                buffer: options.buffer,
            }),
            presence: Presence::none(),
            connections: AtomicU64::new(0),
            refused: Mutex::default(),
            refusals: AtomicU64::new(0),
            half_open: Mutex::default(),
            heartbeat: Mutex::new(HeartbeatSlot::new(options.dead_peer_timeout)),
            source: Mutex::default(),
            ended: Notify::new(),
        }
    }

    /// Starts a task for a new connection, so that no connection delays another.
    pub(super) fn accept(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let acceptor = self.clone();
        let task = tokio::spawn(async move { acceptor.serve(connection, stream, peer).await });
        let accepted = Accepted {
            peer,
            task: task.abort_handle(),
        };
        let dropped = lock(&self.half_open).add(connection, peer.ip(), accepted);
        if let Some(dropped) = dropped {
            dropped.task.abort();
            self.refuse(dropped.peer, &Refusal::HalfOpen);
        }
    }

    /// Waits until no connection transfers data, at most for `limit`.
    pub(super) async fn drain(&self, limit: Duration) {
        let all_ended = async {
            loop {
                let ended = self.ended.notified();
                if self.forwards.are_idle() {
                    return;
                }
                ended.await;
            }
        };
        let _ = timeout(limit, all_ended).await;
    }

    /// Ends every connection.
    pub(super) async fn close_all(&self) {
        self.liveness.mark_dead("the migration is over");
        // Lets each connection's task run once, to log how far it came.
        yield_now().await;
    }

    /// The address of the source; none before its first heartbeat.
    pub(super) fn source(&self) -> Option<IpAddr> {
        *lock(&self.source)
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

    /// One connection from its first byte to its end.
    async fn serve(self: Arc<Self>, connection: u64, stream: TcpStream, peer: SocketAddr) {
        let handshake = self.handshake(connection, stream);
        let handshake = timeout(self.handshake_timeout, handshake).await;
        lock(&self.half_open).remove(connection);
        let authorized = match handshake {
            Err(_) => Err(Refusal::Silent(self.handshake_timeout)),
            Ok(Err(refusal)) => Err(refusal),
            Ok(Ok((link, HEARTBEAT))) => match self.heartbeat(connection, link, peer.ip()).await {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Ok(Ok((link, number))) => self.authorize(link, number).await,
        };
        match authorized {
            Ok((link, local, permit)) => {
                self.relay(link, local, &permit).await;
                drop(permit);
            }
            Err(refusal) => self.refuse(peer, &refusal),
        }
        self.ended.notify_waiters();
    }

    /// TLS and the challenge. Returns the number of the requested forward.
    async fn handshake(&self, connection: u64, stream: TcpStream) -> Result<(Link, u32), Refusal> {
        keepalive::enable(&stream, self.dead_peer_timeout).map_err(Refusal::Setup)?;
        let mut link = match &self.server {
            Some(server) => {
                let stream = server.handshake(stream).await?;
                lock(&self.half_open).certify(connection);
                Link::Tls(Box::new(stream))
            }
            None => Link::clear(stream).map_err(Refusal::Setup)?,
        };
        let number = link.challenge(&self.key).await?;
        Ok((link, number))
    }

    /// Takes a slot of the forward and connects to its socket.
    async fn authorize(
        &self,
        mut link: Link,
        number: u32,
    ) -> Result<(Link, Local, Permit), Refusal> {
        let forward = self.forwards.get(number).ok_or(Refusal::Number(number))?;
        let permit = forward.permit().ok_or(Refusal::Crowded)?;
        let path = &permit.forward().path;
        let local = match connect(path).await {
            Ok(stream) => Local::new(stream),
            Err(cause) => {
                let path = path.display().to_string();
                // The connection is refused whether or not the status arrives.
                let _ = link.send_status(NO_SOCKET).await;
                link.close().await;
                return Err(Refusal::Socket { path, cause });
            }
        };
        if let Err(error) = link.send_status(CONNECTED).await {
            // The program already has its connection. A plain close would look to it like an empty
            // stream that ended well.
            tokio::spawn(async move {
                local.fail().await;
                drop(permit);
            });
            return Err(Refusal::Handshake(error.into()));
        }
        Ok((link, local, permit))
    }

    async fn relay(&self, link: Link, local: Local, permit: &Permit) {
        let number = permit.count();
        let started = Instant::now();
        let counters = &permit.forward().counters;
        let connection = Connection {
            path: permit.forward().path.display(),
            number,
            log: &self.log,
        };
        let monitor = self.tuning.monitor(&connection);
        let result = link.relay(&local, counters, &self.liveness, monitor).await;
        let (kind, end) = match &result {
            Ok(()) => ("listener: closed connections", "closed".to_owned()),
            Err(error) => {
                permit.count_failure();
                self.ended.notify_waiters();
                ("listener: failed connections", format!("FAILED: {error}"))
            }
        };
        self.log.limited(
            kind,
            format_args!(
                "listener: '{}': connection {number}: {end} ({:.1} s)",
                permit.forward().path.display(),
                started.elapsed().as_secs_f64()
            ),
        );
        match result {
            Ok(()) => local.close(),
            Err(_) => local.fail().await,
        }
    }

    /// The one heartbeat of the migration, from its status to its end.
    async fn heartbeat(
        &self,
        connection: u64,
        mut link: Link,
        source: IpAddr,
    ) -> Result<(), Refusal> {
        let replaced = Arc::new(Notify::new());
        let decision = lock(&self.heartbeat).take(connection, replaced.clone(), Instant::now());
        match decision {
            Decision::Accepted(None) => {}
            Decision::Accepted(Some(silent)) => silent.notify_one(),
            Decision::Refused => {
                // The connection is refused whether or not the status arrives.
                let _ = link.send_status(SECOND_HEARTBEAT).await;
                link.close().await;
                return Err(Refusal::SecondHeartbeat);
            }
        }
        *lock(&self.source) = Some(source.to_canonical());
        let _present = self.presence.enter();
        let result = match link.send_status(CONNECTED).await {
            Ok(()) => {
                tokio::select! {
                    () = self.echo(connection, link) => {}
                    () = replaced.notified() => {}
                }
                Ok(())
            }
            Err(error) => Err(HandshakeRefusal::from(error).into()),
        };
        lock(&self.heartbeat).free(connection);
        result
    }

    async fn echo(&self, connection: u64, link: Link) {
        let on_beat = || lock(&self.heartbeat).beat(connection, Instant::now());
        let error = heartbeat::echo(link.into_stream(), self.dead_peer_timeout, on_beat).await;
        // If only the source's process has ended, its other connections have ended too, each with a
        // reason of its own.
        if error.is_death_of_node() {
            self.log
                .line(format_args!("listener: the source is dead: {error}"));
            self.liveness
                .mark_dead(format_args!("the source is dead: {error}"));
        }
    }

    fn refuse(&self, peer: SocketAddr, refusal: &Refusal) {
        let mut refused = lock(&self.refused);
        *match refusal {
            Refusal::Tls(_) => &mut refused.tls,
            Refusal::Silent(_) => &mut refused.silent,
            Refusal::Handshake(HandshakeRefusal::Malformed(_)) | Refusal::Setup(_) => {
                &mut refused.malformed
            }
            Refusal::Handshake(HandshakeRefusal::Key) => &mut refused.key,
            Refusal::Number(_) => &mut refused.number,
            Refusal::Crowded | Refusal::HalfOpen => &mut refused.crowded,
            Refusal::SecondHeartbeat => &mut refused.heartbeat,
            Refusal::Socket { .. } => &mut refused.socket,
        } += 1;
        drop(refused);
        let count = self.refusals.fetch_add(1, Ordering::Relaxed) + 1;
        self.log.limited(
            refusal.kind_of_line(),
            format_args!("listener: connection from {peer} refused: {refusal} (refusal {count})"),
        );
    }
}

/// A connection in the log.
struct Connection<'a> {
    path: std::path::Display<'a>,
    number: u64,
    log: &'a Log,
}

impl Observer for Connection<'_> {
    fn socket_changed(&self, text: &dyn Display) {
        let Self { path, number, log } = self;
        log.limited(
            "listener: changes of sockets",
            format_args!("listener: '{path}': connection {number}: {text}"),
        );
    }

    /// The source reports what limits the migration.
    fn limited_by(&self, _: Limit, _: Duration) {}
}

/// Connects to the program that listens on `path`. If its accept queue is full, the connection is
/// tried again, because the kernel lets only blocking sockets wait.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    let connected = async {
        loop {
            match UnixStream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sleep(QUEUE_FULL_PAUSE).await;
                }
                result => return result,
            }
        }
    };
    let late = |_| {
        let text = format!("its accept queue has been full for {SOCKET_TIMEOUT:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    };
    timeout(SOCKET_TIMEOUT, connected)
        .await
        .unwrap_or_else(late)
}
