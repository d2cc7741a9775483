//! What happens to an accepted connection: TLS if the plane has it, the handshake, then the UNIX
//! socket of its forward.

use super::Options;
use super::connection::Connection;
use super::forwards::{Forwards, MAX_CONNECTIONS, Permit};
use super::half_open::{HalfOpen, MAX_HALF_OPEN};
use super::heartbeat_slot::{Decision, HeartbeatSlot};
use super::presence::Presence;
use super::sockets::{Arrival, Peer};
use super::streams::Streams;
use crate::direct::handshake::{
    CONNECTED, HandshakeRefusal, LaneRequest, NO_SOCKET, Purpose, SECOND_HEARTBEAT,
};
use crate::direct::message::{Refused, Stat};
use crate::direct::{
    LaneResources, LaneSettings, Link, PeerLiveness, SessionKey, WebsocketEnd, Windows, heartbeat,
};
use crate::lanes::LANES;
use crate::plane::Plane;
use crate::process::Log;
use crate::relay::{Local, Stream, StreamCompression};
use crate::system::{keepalive, lock};
use crate::tls::{Server, TlsError};
use crate::tuning::{Settings, Tuning};
use std::io;
use std::net::IpAddr;
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
pub(super) enum Refusal {
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
    #[error("its stream already has {} lanes", LANES.end())]
    Lanes,
    #[error("it would begin a stream that exists")]
    StreamExists,
    #[error("it would join a stream that is over")]
    StreamOver,
    #[error("it would join a stream that does not exist")]
    NoStream,
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
            Self::Number(_)
            | Self::Crowded
            | Self::Lanes
            | Self::StreamExists
            | Self::StreamOver
            | Self::NoStream
            | Self::SecondHeartbeat
            | Self::Socket { .. } => "listener: refused connections of the source",
            _ => "listener: refused connections of unproven peers",
        }
    }
}

/// What all connections of one migration share.
pub(super) struct Acceptor {
    plane: Plane,
    protocol: u16,
    server: Option<Server>,
    key: SessionKey,
    handshake_timeout: Duration,
    dead_peer_timeout: Duration,
    pub(super) forwards: Forwards,
    pub(super) log: Arc<Log>,
    pub(super) liveness: PeerLiveness,
    pub(super) tuning: Arc<Tuning>,
    pub(super) streams: Streams,
    pub(super) lanes: Arc<LaneResources>,
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
    peer: Peer,
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
            protocol: options.protocol,
            server,
            key,
            handshake_timeout: options.handshake_timeout,
            dead_peer_timeout: options.dead_peer_timeout,
            forwards: Forwards::default(),
            log,
            liveness: PeerLiveness::alive(options.dead_peer_timeout),
            tuning: Arc::new(Tuning::new(Settings {
                congestion: options.congestion,
                buffer: options.buffer,
            })),
            streams: Streams::default(),
            lanes: Arc::new(LaneResources::new(
                LaneSettings::new(*LANES.end(), *LANES.start(), options.threads),
                Windows::OF_TARGET,
            )),
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
    pub(super) fn accept(self: &Arc<Self>, arrival: Arrival, peer: Peer) {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let acceptor = self.clone();
        let task = tokio::spawn(async move { acceptor.serve(connection, arrival, peer).await });
        let accepted = Accepted {
            peer,
            task: task.abort_handle(),
        };
        let dropped = lock(&self.half_open).add(connection, peer.origin(), accepted);
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

    /// The address of the source; none before its first heartbeat, and behind the API.
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
    async fn serve(self: Arc<Self>, connection: u64, arrival: Arrival, peer: Peer) {
        let handshake = self.handshake(connection, arrival);
        let handshake = timeout(self.handshake_timeout, handshake).await;
        lock(&self.half_open).remove(connection);
        let served = match handshake {
            Err(_) => Err(Refusal::Silent(self.handshake_timeout)),
            Ok(Err(refusal)) => Err(refusal),
            Ok(Ok((link, purpose))) => self.serve_link(connection, link, purpose, peer).await,
        };
        if let Err(refusal) = served {
            self.refuse(peer, &refusal);
        }
        self.ended.notify_waiters();
    }

    /// A connection after its handshake, to its end.
    async fn serve_link(
        &self,
        connection: u64,
        link: Link,
        purpose: Purpose,
        peer: Peer,
    ) -> Result<(), Refusal> {
        match purpose {
            Purpose::HEARTBEAT => self.heartbeat(connection, link, peer).await,
            Purpose {
                number,
                lane: Some(LaneRequest { stream, joins }),
            } if joins => self.join(link, number, stream).await,
            Purpose { number, lane } => {
                if lane.is_some_and(|lane| self.streams.contains(lane.stream)) {
                    return Err(Refusal::StreamExists);
                }
                let (link, local, permit) = self.authorize(link, number).await?;
                self.relay(link, lane, local, &permit).await;
                Ok(())
            }
        }
    }

    /// TLS and the challenge. Returns what the connection is for.
    async fn handshake(
        &self,
        connection: u64,
        arrival: Arrival,
    ) -> Result<(Link, Purpose), Refusal> {
        let mut link = match arrival {
            Arrival::Tcp(stream) => self.direct_link(connection, stream).await?,
            Arrival::Unix(stream) => Link::Websocket(stream, WebsocketEnd::Target),
        };
        let purpose = link.challenge(&self.key, self.protocol).await?;
        Ok((link, purpose))
    }

    async fn direct_link(&self, connection: u64, stream: TcpStream) -> Result<Link, Refusal> {
        keepalive::enable(&stream, self.dead_peer_timeout).map_err(Refusal::Setup)?;
        match &self.server {
            Some(server) => {
                let stream = server.handshake(stream).await?;
                lock(&self.half_open).certify(connection);
                Ok(Link::Tls(Box::new(stream)))
            }
            None => Link::clear(stream).map_err(Refusal::Setup),
        }
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

    async fn relay(&self, link: Link, lane: Option<LaneRequest>, local: Local, permit: &Permit) {
        let number = permit.count();
        let started = Instant::now();
        let counters = &permit.forward().counters;
        let local = Arc::new(local);
        let connection = Arc::new(Connection {
            path: permit.forward().path.display().to_string(),
            number,
            log: self.log.clone(),
        });
        let result = match lane {
            Some(LaneRequest { stream: id, .. }) => {
                let window = self.lanes.window();
                let stream = Stream::new(
                    local.clone(),
                    counters.clone(),
                    window.bytes,
                    StreamCompression::Accepts,
                    self.lanes.pipes.clone(),
                );
                self.relay_stream(
                    link,
                    permit.forward().number,
                    id,
                    Arc::new(stream),
                    connection,
                )
                .await
            }
            None => {
                let monitor = self.tuning.monitor(&*connection);
                link.relay(&local, counters, &self.liveness, monitor).await
            }
        };
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
    async fn heartbeat(&self, connection: u64, mut link: Link, peer: Peer) -> Result<(), Refusal> {
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
        *lock(&self.source) = peer.address().map(|address| address.to_canonical());
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

    fn refuse(&self, peer: Peer, refusal: &Refusal) {
        let mut refused = lock(&self.refused);
        *match refusal {
            Refusal::Tls(_) => &mut refused.tls,
            Refusal::Silent(_) => &mut refused.silent,
            Refusal::Handshake(HandshakeRefusal::Malformed(_) | HandshakeRefusal::Purpose)
            | Refusal::Setup(_) => &mut refused.malformed,
            Refusal::Handshake(HandshakeRefusal::Key) => &mut refused.key,
            Refusal::Number(_)
            | Refusal::StreamExists
            | Refusal::StreamOver
            | Refusal::NoStream => &mut refused.number,
            Refusal::Crowded | Refusal::HalfOpen | Refusal::Lanes => &mut refused.crowded,
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
