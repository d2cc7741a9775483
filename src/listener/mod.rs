//! The process on the target: one port for a whole migration, the handshake of each connection, and
//! the path from there to the UNIX socket of its forward.
//!
//! The listener decides nothing: its worker sends it the sockets that may be reached over a socket
//! pair (`control_socket`). It ends when its worker ends.

mod accept_loop;
mod acceptor;
mod connection;
mod control_socket;
mod forwards;
mod half_open;
mod heartbeat_slot;
mod lanes;
mod presence;
mod published;
mod quota;
mod sockets;
mod streams;

pub use quota::{DIRECTORY as SLOTS, QuotaError, unlocked as unlocked_slots};

use crate::configuration::default_dead_peer_timeout;
use crate::direct::message::{Open, OpenSocket};
use crate::direct::{HANDSHAKE_TIMEOUT, LANES_PROTOCOL, OLDEST_PROTOCOL, PROTOCOL, SessionKey};
use crate::network::NetworkError;
use crate::plane::Plane;
use crate::process::{Input, Log, Output};
use crate::publication::{self, Publication};
use crate::scalar;
use crate::system::socket_path::SocketPath;
use crate::system::{ConfidentialMemory, ParentDeathSignal, Signals, limits};
use crate::tls::{Fingerprint, Identity, Server, TlsError};
use crate::tuning::{Buffer, Congestion};
use acceptor::Acceptor;
use control_socket::ControlSocket;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sockets::{Bound, ListeningSocket};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// What the worker requests. All times are limits, in seconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// `tls` or `tcp`; `websocket` for lanes through the API, which arrive at a UNIX socket.
    pub plane: Plane,
    /// `websocket`: the path of that socket.
    #[serde(default)]
    pub path: Option<String>,
    /// The ID of the user that may connect to it; if absent, the user of this process.
    #[serde(default, deserialize_with = "scalar::deserialize_optional_number")]
    pub owner: Option<u32>,
    /// The protocol of the connections; if absent, the oldest one.
    #[serde(default = "oldest_protocol")]
    pub protocol: u16,
    /// CIDR or interface name to listen on; if absent, the address that the node's name resolves to.
    #[serde(default)]
    pub network: Option<String>,
    /// The node's name.
    pub node: String,
    /// `tls`: the fingerprint of the source's one-time certificate.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// Clear text on a publicly routable address is allowed.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub public: bool,
    /// From accepting a connection to the end of its handshake.
    #[serde(
        rename = "hello_timeout",
        default = "handshake_timeout",
        deserialize_with = "scalar::deserialize_time_limit"
    )]
    pub handshake_timeout: Duration,
    /// How long the source may be silent before it counts as dead.
    #[serde(
        default = "default_dead_peer_timeout",
        deserialize_with = "scalar::deserialize_time_limit"
    )]
    pub dead_peer_timeout: Duration,
    /// How long the listener runs without a heartbeat.
    #[serde(
        default = "heartbeat_timeout",
        deserialize_with = "scalar::deserialize_time_limit"
    )]
    pub heartbeat_timeout: Duration,
    /// The congestion control of the connections.
    #[serde(default)]
    pub congestion: Congestion,
    /// The size of their buffers.
    #[serde(default)]
    pub buffer: Buffer,
    /// The threads that serve lanes beside the listener's own one; if absent, a quarter of the cores.
    #[serde(default, deserialize_with = "scalar::deserialize_optional_number")]
    pub threads: Option<u16>,
    /// The user of the API that the worker runs for; its listeners are counted.
    #[serde(default)]
    pub user: Option<String>,
}

/// The source opens the heartbeat as soon as it has the listener's address. Its limit for that is 5
/// seconds if its configuration does not change it.
fn heartbeat_timeout() -> Duration {
    Duration::from_secs(60)
}

fn oldest_protocol() -> u16 {
    OLDEST_PROTOCOL
}

fn handshake_timeout() -> Duration {
    HANDSHAKE_TIMEOUT
}

/// Why there is no listener, or why it ended.
#[derive(Debug, Error)]
pub enum ListenerError {
    /// The options contradict each other.
    #[error("{0}")]
    Options(&'static str),
    /// Clear text would be received on a publicly routable address.
    #[error(
        "clear text is not received on {0}, which is publicly routable: name a private migration network, set 'public 1' for this one in /etc/pve/remote-migration.cfg, or omit migration_type=insecure"
    )]
    Public(IpAddr),
    /// There are too many listeners.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The source is gone, or has never come.
    #[error("the source has had no heartbeat for {0:?}")]
    Abandoned(Duration),
    /// No address or no port.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The socket for the API cannot be made.
    #[error("cannot listen on '{path}': {cause}")]
    Socket {
        /// Its path.
        path: String,
        /// Why.
        cause: io::Error,
    },
    /// No identity.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The worker's socket cannot be used.
    #[error("the worker's socket: {0}")]
    Control(io::Error),
    /// The system refuses something that the listener needs.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// A signal.
    #[error("ended by {0}")]
    Signal(&'static str),
    /// The worker has ended without closing its end of the socket: another process has it open.
    #[error("the worker has ended")]
    WorkerEnded,
}

/// Runs the listener until the worker requests `close`, closes `control` or dies, or SIGHUP, SIGINT,
/// SIGTERM or SIGALRM arrives. The signal is raised again after the clean-up.
///
/// `control` is one end of a UNIX stream socket pair. The first line there is the answer to the
/// seam's `open`, or `{"error":"…"}`. Diagnostics go to `log`, one line each. Blocks the calling
/// thread; meant for a process forked for it.
pub fn run(control: OwnedFd, log: Option<OwnedFd>, options: &Options) -> Result<(), ListenerError> {
    // Dropped last, when everything else has been freed.
    let _confidential = ConfidentialMemory::require().map_err(ListenerError::Start)?;
    limits::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ListenerError::Start)?;
    let result = runtime.block_on(async {
        let signals = Signals::block().map_err(ListenerError::Start)?;
        let parent_death = ParentDeathSignal::set().map_err(ListenerError::Start)?;
        let log = Arc::new(Log::new(log));
        let writer = control.try_clone().map_err(ListenerError::Control)?;
        let input = Input::new(control).map_err(ListenerError::Control)?;
        let output = Output::new(writer).map_err(ListenerError::Control)?;
        let served = serve(input, output, &log, options);
        let result = tokio::select! {
            result = served => result,
            signal = signals.wait() => Err(match signal {
                Ok(_) if parent_death.parent_has_died() => ListenerError::WorkerEnded,
                Ok(name) => ListenerError::Signal(name),
                Err(error) => ListenerError::Start(error),
            }),
        };
        if let Err(error) = &result {
            log.line(format_args!("listener: {error}"));
        }
        log.report_unlogged();
        result
    });
    // A connection or a pending name lookup must not delay the end.
    runtime.shutdown_background();
    result
}

async fn serve(
    input: Input,
    output: Output,
    log: &Arc<Log>,
    options: &Options,
) -> Result<(), ListenerError> {
    let Prepared {
        acceptor,
        sockets,
        answer,
        _path,
        _slot,
    } = match prepare(log, options) {
        Ok(prepared) => prepared,
        Err(error) => {
            let line = json!({ "error": error.to_string() }).to_string();
            // If the worker no longer reads, the log has the error too.
            let _ = output.lock().await.line(line.as_bytes()).await;
            return Err(error);
        }
    };
    let mut control = ControlSocket::new(input, output, acceptor.clone());
    control
        .opened(&answer)
        .await
        .map_err(ListenerError::Control)?;
    drop(answer);
    let publication =
        Publication::open(Path::new(publication::DIRECTORY)).unwrap_or_else(|error| {
            log.line(format_args!(
                "listener: {}",
                publication::Unpublished(error)
            ));
            None
        });
    let state = || published::state(&acceptor);
    let served = tokio::select! {
        served = control.serve() => served.map_err(ListenerError::Control),
        never = accept_loop::run_all(sockets, &acceptor) => match never {},
        never = publication::serve(publication.as_ref(), state) => match never {},
        () = acceptor.presence.absent_for(options.heartbeat_timeout) => {
            Err(ListenerError::Abandoned(options.heartbeat_timeout))
        }
    };
    acceptor.close_all().await;
    served
}

/// A listener before its first connection.
struct Prepared {
    acceptor: Arc<Acceptor>,
    sockets: Vec<ListeningSocket>,
    /// The answer to `open`.
    answer: Answer,
    /// That of the socket behind the API. Not with the socket: its task may outlive the listener, if a
    /// signal ends the process.
    _path: Option<SocketPath>,
    _slot: Option<quota::Slot>,
}

/// What the source needs to connect.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Direct(Open),
    Socket(OpenSocket),
}

/// Everything that can fail before the first connection.
fn prepare(log: &Arc<Log>, options: &Options) -> Result<Prepared, ListenerError> {
    if !(OLDEST_PROTOCOL..=PROTOCOL).contains(&options.protocol) {
        return Err(ListenerError::Options("the protocol is not supported"));
    }
    let key = SessionKey::generate().map_err(ListenerError::Start)?;
    match (options.plane, &options.fingerprint, &options.path) {
        (Plane::Websocket, None, Some(path)) if options.protocol >= LANES_PROTOCOL => {
            behind_api(path, key, log, options)
        }
        (Plane::Tls, Some(pin), None) => {
            let pin: Fingerprint = pin.parse()?;
            let identity = Identity::one_time()?;
            let server = Server::direct(&identity, pin)?;
            direct(Some((server, identity)), key, log, options)
        }
        (Plane::Tcp, None, None) => direct(None, key, log, options),
        (Plane::Websocket, ..) => Err(ListenerError::Options(
            "plane 'websocket' needs a path, protocol 2, and no fingerprint",
        )),
        (Plane::Tls, None, _) => Err(ListenerError::Options(
            "plane 'tls' needs the fingerprint of the source's certificate",
        )),
        (Plane::Tcp, Some(_), _) => Err(ListenerError::Options(
            "plane 'tcp' has no certificates, but a fingerprint was given",
        )),
        (Plane::Tls | Plane::Tcp, _, Some(_)) => Err(ListenerError::Options(
            "planes 'tls' and 'tcp' listen on addresses, but a path was given",
        )),
        (Plane::Qemu, ..) => Err(ListenerError::Options(
            "a listener serves plane 'tls', 'tcp' or 'websocket'",
        )),
    }
}

fn direct(
    tls: Option<(Server, Identity)>,
    key: SessionKey,
    log: &Arc<Log>,
    options: &Options,
) -> Result<Prepared, ListenerError> {
    let addresses = sockets::addresses(options)?;
    let slot = quota::take(Path::new(quota::DIRECTORY), options.user.as_deref())?;
    let Bound { sockets, port } = sockets::bind(&addresses)?;
    let shown: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    log.line(format_args!(
        "listener: plane {} on {} port {port}",
        options.plane.name(),
        shown.join(" and "),
    ));
    let (server, identity) = tls.unzip();
    let open = Open {
        protocol: options.protocol,
        plane: options.plane,
        addresses,
        port,
        fingerprint: identity.map(|identity| identity.fingerprint().to_string()),
        key: key.clone(),
        echo: true,
    };
    Ok(Prepared {
        acceptor: Arc::new(Acceptor::new(options, server, key, log.clone())),
        sockets,
        answer: Answer::Direct(open),
        _path: None,
        _slot: slot,
    })
}

/// For lanes through the API. It needs no port, so it takes no slot of those that share them.
fn behind_api(
    path: &str,
    key: SessionKey,
    log: &Arc<Log>,
    options: &Options,
) -> Result<Prepared, ListenerError> {
    let made = ListeningSocket::at_path(Path::new(path), options.owner);
    let (socket, socket_path) = made.map_err(|cause| ListenerError::Socket {
        path: path.to_owned(),
        cause,
    })?;
    log.line(format_args!("listener: lanes through the API at '{path}'"));
    let open = OpenSocket {
        protocol: options.protocol,
        plane: Plane::Websocket,
        path: path.to_owned(),
        key: key.clone(),
    };
    Ok(Prepared {
        acceptor: Arc::new(Acceptor::new(options, None, key, log.clone())),
        sockets: vec![socket],
        answer: Answer::Socket(open),
        _path: Some(socket_path),
        _slot: None,
    })
}
