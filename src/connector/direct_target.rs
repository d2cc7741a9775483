//! The target's listener after a successful dial, and the connections to it.

use super::api_route::ApiRoute;
use super::connect_error::ConnectError;
use super::direct_endpoint::{Credentials, DirectEndpoint};
use super::happy_eyeballs::{Candidate, Deadline};
use super::worker::{RequestError, WorkerChannel, request_operation};
use crate::direct::handshake::Purpose;
use crate::direct::heartbeat::{self, HeartbeatError};
use crate::direct::message::Stat;
use crate::direct::{LaneResources, Link, PeerLiveness};
use crate::plane::Plane;
use crate::process::Log;
use serde::Serialize;
use serde_json::json;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Pause before a heartbeat that has failed is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(100);

/// What is needed to continue after connections have failed, from protocol 2 on.
pub(super) struct Healing {
    pub(super) lanes: Arc<LaneResources>,
    /// Reports whether the listener is alive.
    pub(super) worker: WorkerChannel,
}

impl Healing {
    fn most_lanes(&self) -> u16 {
        self.lanes.settings().lanes
    }
}

/// The target's listener, with an open heartbeat.
pub(super) struct DirectTarget {
    route: Arc<Route>,
    /// Of the heartbeat's connection.
    summary: Summary,
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
    /// The most lanes of a stream; none if each stream has one connection.
    pub(super) lanes: Option<u16>,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) local: IpAddr,
    pub(super) fingerprint: Option<String>,
    pub(super) own_fingerprint: Option<String>,
    pub(super) cipher: String,
}

/// How connections reach the listener.
enum Route {
    Direct(DirectEndpoint),
    Api(ApiRoute),
}

impl Route {
    async fn connect(&self, purpose: Purpose) -> Result<Link, ConnectError> {
        match self {
            Self::Direct(endpoint) => endpoint.connect(purpose).await,
            Self::Api(route) => Ok(route.connect(purpose).await?.0),
        }
    }

    /// Where it is, for messages.
    fn name(&self) -> String {
        match self {
            Self::Direct(endpoint) => endpoint.address().to_string(),
            Self::Api(route) => format!("the API of {}", route.peer()),
        }
    }
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
        let fingerprints = credentials.fingerprints();
        let summary = Summary {
            plane: credentials.plane,
            protocol: credentials.protocol,
            lanes: healing.as_ref().map(Healing::most_lanes),
            address: endpoint.ip(),
            port: endpoint.port(),
            local,
            fingerprint: fingerprints.map(|(pin, _)| pin.to_string()),
            own_fingerprint: fingerprints.map(|(_, own)| own.to_string()),
            cipher,
        };
        let route = Route::Direct(DirectEndpoint {
            credentials,
            candidate,
            dead_peer_timeout,
        });
        Ok(Self::with_heartbeat(
            link,
            route,
            summary,
            dead_peer_timeout,
            healing,
            log,
        ))
    }

    /// Makes the first connection through the API, which becomes the heartbeat.
    pub(super) async fn through_api(
        route: ApiRoute,
        dead_peer_timeout: Duration,
        healing: Healing,
        log: Arc<Log>,
    ) -> Result<Self, ConnectError> {
        let (link, protection) = route.connect(Purpose::HEARTBEAT).await?;
        let unknown = || io::Error::from(io::ErrorKind::NotConnected);
        let remote = protection.remote.ok_or_else(unknown)?;
        let local = protection.local.ok_or_else(unknown)?;
        let summary = Summary {
            plane: Plane::Websocket,
            protocol: route.protocol(),
            lanes: Some(healing.most_lanes()),
            address: remote.ip().to_canonical(),
            port: remote.port(),
            local: local.ip().to_canonical(),
            fingerprint: protection
                .fingerprint
                .map(|fingerprint| fingerprint.to_string()),
            own_fingerprint: None,
            cipher: protection.cipher,
        };
        let route = Route::Api(route);
        let healing = Some(healing);
        Ok(Self::with_heartbeat(
            link,
            route,
            summary,
            dead_peer_timeout,
            healing,
            log,
        ))
    }

    fn with_heartbeat(
        heartbeat: Link,
        route: Route,
        summary: Summary,
        dead_peer_timeout: Duration,
        healing: Option<Healing>,
        log: Arc<Log>,
    ) -> Self {
        let route = Arc::new(route);
        let liveness = PeerLiveness::alive(dead_peer_timeout);
        let (lanes, worker) = match healing {
            Some(Healing { lanes, worker }) => (Some(lanes), Some(worker)),
            None => (None, None),
        };
        let path_failed = Arc::new(Notify::new());
        let running = Heartbeat {
            route: route.clone(),
            worker,
            liveness: liveness.clone(),
            path_failed: path_failed.clone(),
            log,
        };
        Self {
            route,
            summary,
            liveness,
            path_failed,
            heartbeat: tokio::spawn(running.run(heartbeat)),
            lanes,
        }
    }

    /// Opens a connection to a forward.
    pub(super) async fn connect(&self, purpose: Purpose) -> Result<Link, ConnectError> {
        match self.liveness.cause_of_death() {
            Some(reason) => Err(ConnectError::Dead(reason)),
            None => self.route.connect(purpose).await,
        }
    }

    /// Where the listener is, for messages.
    pub(super) fn name(&self) -> String {
        self.route.name()
    }

    /// Whether it is reached without the API.
    pub(super) fn is_direct(&self) -> bool {
        matches!(*self.route, Route::Direct(_))
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

    /// The listener as the caller and the record show it.
    pub(super) fn summary(&self) -> &Summary {
        &self.summary
    }
}

impl Drop for DirectTarget {
    fn drop(&mut self) {
        self.stop_heartbeat();
    }
}

/// The source's end of the heartbeat.
struct Heartbeat {
    route: Arc<Route>,
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
        let limit = self.liveness.dead_peer_timeout();
        // The rest of the limit is for another connection.
        let silence = match self.worker {
            Some(_) => limit / 2,
            None => limit,
        };
        let reason = loop {
            let error = heartbeat::run(link.into_stream(), limit, silence).await;
            let address = self.route.name();
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
            match self.route.connect(Purpose::HEARTBEAT).await {
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
