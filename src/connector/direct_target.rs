//! The target's listener after a successful dial, and the connections to it.

use super::Options;
use super::happy_eyeballs::{Candidate, Deadline};
use super::worker::{RequestError, WorkerChannel, request_operation};
use crate::direct::handshake::Purpose;
use crate::direct::heartbeat::{self, HeartbeatError};
use crate::direct::message::{Open, Stat};
use crate::direct::{HandshakeError, LaneResources, Link, PeerLiveness, ProbeError, SessionKey};
use crate::plane::Plane;
use crate::process::Log;
use crate::system::keepalive;
use crate::tls::{Client, Fingerprint, Identity, Peer, TlsError, describe};
use serde::Serialize;
use serde_json::json;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout, timeout_at};

/// Pause before a heartbeat that has failed is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no connection to the listener.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    /// No TCP connection.
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    /// The TLS handshake failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The handshake of the direct connection failed.
    #[error(transparent)]
    Handshake(HandshakeError),
    /// The network path does not deliver packets of full size.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The listener did not answer.
    #[error("no {what} within {limit:?}")]
    TimedOut { what: &'static str, limit: Duration },
    /// The target was marked dead before.
    #[error("{0}")]
    Dead(String),
}

/// What the source needs to connect to a listener.
pub(super) struct Credentials {
    plane: Plane,
    protocol: u16,
    key: SessionKey,
    /// The listener sends every byte of the heartbeat back.
    echo: bool,
    /// Only for `tls`.
    tls: Option<TlsCredentials>,
    connect_timeout: Duration,
    handshake_timeout: Duration,
}

struct TlsCredentials {
    client: Client,
    /// The fingerprint of the listener's certificate.
    pin: Fingerprint,
    /// The fingerprint of the source's certificate.
    own: Fingerprint,
}

impl Credentials {
    /// For a listener that was opened for this identity. `tcp` has none.
    pub(super) fn new(
        open: &Open,
        identity: Option<&Identity>,
        options: &Options,
    ) -> Result<Self, TlsError> {
        let tls = match identity {
            Some(identity) => {
                let announced = open.fingerprint.as_deref().unwrap_or_default();
                let pin: Fingerprint = announced.parse()?;
                Some(TlsCredentials {
                    client: Client::direct(identity, pin)?,
                    pin,
                    own: identity.fingerprint(),
                })
            }
            None => None,
        };
        Ok(Self {
            plane: open.plane,
            protocol: open.protocol,
            key: open.key.clone(),
            echo: open.echo,
            tls,
            connect_timeout: options.connect_timeout,
            handshake_timeout: options.handshake_timeout,
        })
    }

    /// Makes a link to a forward of a TCP connection; also returns its cipher, for the log. Without a
    /// deadline for the whole, each step has a time limit of its own.
    async fn open_link(
        &self,
        stream: TcpStream,
        endpoint: SocketAddr,
        purpose: Purpose,
        dead_peer_timeout: Duration,
        whole: Option<Deadline>,
    ) -> Result<(Link, String), ConnectError> {
        keepalive::enable(&stream, dead_peer_timeout)?;
        let step = || whole.unwrap_or_else(|| Deadline::within(self.handshake_timeout));
        let timed_out = |what, limit| ConnectError::TimedOut { what, limit };
        let (mut link, cipher) = match &self.tls {
            Some(tls) => {
                let Deadline { at, limit } = step();
                let host = endpoint.ip().to_string();
                let stream = timeout_at(at, tls.client.handshake(&host, stream))
                    .await
                    .map_err(|_| timed_out("answer to the TLS handshake", limit))??;
                let cipher = describe(&stream);
                (Link::Tls(Box::new(stream)), cipher)
            }
            None => (Link::clear(stream)?, "UNENCRYPTED".into()),
        };
        let Deadline { at, limit } = step();
        timeout_at(at, link.respond(&self.key, purpose, self.protocol))
            .await
            .map_err(|_| timed_out("answer to the handshake", limit))?
            .map_err(from_handshake)?;
        Ok((link, cipher))
    }
}

/// With TLS 1.3, a target that refuses the source's certificate reports it only where the handshake of
/// the direct connection is expected.
fn from_handshake(cause: HandshakeError) -> ConnectError {
    if let HandshakeError::Io(error) = &cause {
        if let Some(cause) = TlsError::from_alert(Peer::Target, error) {
            return ConnectError::Tls(cause);
        }
    }
    ConnectError::Handshake(cause)
}

/// Where the listener is, and what a connection to it needs.
struct Endpoint {
    credentials: Credentials,
    candidate: Candidate,
    dead_peer_timeout: Duration,
}

impl Endpoint {
    fn address(&self) -> SocketAddr {
        self.candidate.endpoint
    }

    async fn connect(&self, purpose: Purpose) -> Result<Link, ConnectError> {
        let limit = self.credentials.connect_timeout;
        let stream = timeout(limit, self.candidate.connect())
            .await
            .map_err(|_| ConnectError::TimedOut {
                what: "TCP connection",
                limit,
            })??;
        let opened = self.credentials.open_link(
            stream,
            self.address(),
            purpose,
            self.dead_peer_timeout,
            None,
        );
        Ok(opened.await?.0)
    }
}

/// What is needed to continue after connections have failed, from protocol 2 on.
pub(super) struct Healing {
    pub(super) lanes: Arc<LaneResources>,
    /// Reports whether the listener is alive.
    pub(super) worker: WorkerChannel,
}

/// The target's listener, with an open heartbeat.
pub(super) struct DirectTarget {
    endpoint: Arc<Endpoint>,
    /// This node's address of the heartbeat connection.
    local: IpAddr,
    cipher: String,
    liveness: PeerLiveness,
    /// Notified when the heartbeat's connection has lost its path.
    path_failed: Arc<Notify>,
    heartbeat: JoinHandle<()>,
    /// For lanes; none if each stream has one connection.
    lanes: Option<Arc<LaneResources>>,
}

/// The listener as the caller and the record show it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    pub(super) plane: Plane,
    pub(super) protocol: u16,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) local: IpAddr,
    pub(super) fingerprint: Option<String>,
    pub(super) own_fingerprint: Option<String>,
    pub(super) cipher: String,
}

impl DirectTarget {
    /// Makes the first connection, and checks on it that the network path delivers packets of full
    /// size. Then it becomes the heartbeat. The deadline is for all steps but the check, which has its
    /// own limit.
    pub(super) async fn dial(
        credentials: Credentials,
        stream: TcpStream,
        candidate: Candidate,
        deadline: Deadline,
        dead_peer_timeout: Duration,
        healing: Option<Healing>,
        log: Arc<Log>,
    ) -> Result<Self, ConnectError> {
        let endpoint = candidate.endpoint;
        let local = stream.local_addr()?.ip();
        let (mut link, cipher) = credentials
            .open_link(
                stream,
                endpoint,
                Purpose::HEARTBEAT,
                dead_peer_timeout,
                Some(deadline),
            )
            .await?;
        link.probe(credentials.echo).await?;
        let endpoint = Arc::new(Endpoint {
            credentials,
            candidate,
            dead_peer_timeout,
        });
        let liveness = PeerLiveness::alive(dead_peer_timeout);
        let (lanes, worker) = match healing {
            Some(Healing { lanes, worker }) => (Some(lanes), Some(worker)),
            None => (None, None),
        };
        let path_failed = Arc::new(Notify::new());
        let heartbeat = Heartbeat {
            endpoint: endpoint.clone(),
            worker,
            liveness: liveness.clone(),
            path_failed: path_failed.clone(),
            log,
        };
        Ok(Self {
            endpoint,
            local,
            cipher,
            liveness,
            path_failed,
            heartbeat: tokio::spawn(heartbeat.run(link)),
            lanes,
        })
    }

    /// Opens a connection to a forward.
    pub(super) async fn connect(&self, purpose: Purpose) -> Result<Link, ConnectError> {
        match self.liveness.cause_of_death() {
            Some(reason) => Err(ConnectError::Dead(reason)),
            None => self.endpoint.connect(purpose).await,
        }
    }

    /// The address and port of the listener.
    pub(super) fn endpoint(&self) -> SocketAddr {
        self.endpoint.address()
    }

    /// Whether the target is alive.
    pub(super) fn liveness(&self) -> &PeerLiveness {
        &self.liveness
    }

    /// Waits until the path of a connection that is open now may have failed without an error.
    pub(super) async fn path_failed(&self) {
        self.path_failed.notified().await;
    }

    /// What lanes share; none if each stream has one connection.
    pub(super) fn lanes(&self) -> Option<&Arc<LaneResources>> {
        self.lanes.as_ref()
    }

    /// Ends the heartbeat. To be called before the listener ends as planned.
    pub(super) fn stop_heartbeat(&self) {
        self.heartbeat.abort();
    }

    /// The cipher of the connections.
    pub(super) fn cipher(&self) -> &str {
        &self.cipher
    }

    pub(super) fn summary(&self) -> Summary {
        let credentials = &self.endpoint.credentials;
        let tls = credentials.tls.as_ref();
        Summary {
            plane: credentials.plane,
            protocol: credentials.protocol,
            address: self.endpoint().ip(),
            port: self.endpoint().port(),
            local: self.local,
            fingerprint: tls.map(|tls| tls.pin.to_string()),
            own_fingerprint: tls.map(|tls| tls.own.to_string()),
            cipher: self.cipher.clone(),
        }
    }
}

impl Drop for DirectTarget {
    fn drop(&mut self) {
        self.stop_heartbeat();
    }
}

/// The source's end of the heartbeat.
struct Heartbeat {
    endpoint: Arc<Endpoint>,
    /// None if the end of the connection is the death of the listener.
    worker: Option<WorkerChannel>,
    liveness: PeerLiveness,
    /// Notified when the connection has lost its path.
    path_failed: Arc<Notify>,
    log: Arc<Log>,
}

impl Heartbeat {
    /// Runs until the listener is dead, and marks it dead.
    async fn run(self, mut link: Link) {
        let limit = self.endpoint.dead_peer_timeout;
        // The rest of the limit is for another connection.
        let silence = match self.worker {
            Some(_) => limit / 2,
            None => limit,
        };
        let reason = loop {
            let error = heartbeat::run(link.into_stream(), limit, silence).await;
            let address = self.endpoint.address();
            let left = match error {
                HeartbeatError::Silent(silence) => limit.saturating_sub(silence),
                _ => limit,
            };
            match timeout(left, self.reopen()).await.ok().flatten() {
                Some(again) => link = again,
                None => {
                    let error = match error {
                        HeartbeatError::Silent(_) => HeartbeatError::Silent(limit),
                        error => error,
                    };
                    break format!("the target's listener at {address} is dead: {error}");
                }
            }
            if let HeartbeatError::Silent(_) = error {
                // The path of that connection has failed. The lanes may have the same one, such as an
                // address that this node has lost, and a lane that has nothing to send does not notice.
                self.path_failed.notify_waiters();
            }
            self.log.limited(
                "changes of the heartbeat",
                format_args!("the heartbeat to {address} failed: {error}; it is open again"),
            );
        };
        self.log.line(&reason);
        self.liveness.mark_dead(reason);
    }

    /// Opens the heartbeat again, as long as the worker reports that the listener is alive.
    async fn reopen(&self) -> Option<Link> {
        let worker = self.worker.as_ref()?;
        loop {
            if !is_listening(worker).await {
                return None;
            }
            match self.endpoint.connect(Purpose::HEARTBEAT).await {
                Ok(link) => return Some(link),
                Err(_) => sleep(REOPEN_PAUSE).await,
            }
        }
    }
}

/// Whether the listener is alive, as far as the worker knows.
async fn is_listening(worker: &WorkerChannel) -> bool {
    let stat = request_operation::<Stat>(worker, &json!({ "op": "stat" })).await;
    !matches!(
        stat,
        Err(RequestError::Refused(_) | RequestError::NoControl)
    )
}
