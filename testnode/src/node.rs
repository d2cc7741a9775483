//! The server: start, accept loop, shutdown.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::api::Api;
use crate::connection::Connection;
use crate::guests::Guests;
use crate::identity::{Identity, IdentityError, TlsVersion};
use crate::inventory::Inventory;
use crate::misbehave::Misbehaviours;
use crate::permissions::{Permissions, PermissionsError};
use crate::ticket::{TicketKey, Token, TokenError};
use crate::worker::{NodeProfile, WorkerSettings, Workers};

/// Kernel buffer of each connection and direction in bytes. It is small, so that a peer that does
/// not read stalls the sender soon.
const SOCKET_BUFFER: u32 = 256 * 1024;
/// Limits of pveproxy for the head of a request: bytes, lines, and idle time before the upgrade.
const HEAD_BYTES: usize = 8 * 1024;
const HEAD_LINES: usize = 64;
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Limit of connections that wait for `accept()`.
const BACKLOG: u32 = 128;

/// The settings of the command line.
pub(crate) struct Settings {
    pub(crate) listen: IpAddr,
    pub(crate) port: u16,
    pub(crate) dir: PathBuf,
    pub(crate) worker: PathBuf,
    pub(crate) node: String,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) profile: NodeProfile,
    pub(crate) inventory: Inventory,
    /// The file with the privileges of the token. `None`: what a migration needs.
    pub(crate) permissions: Option<PathBuf>,
    pub(crate) create_guests: bool,
    pub(crate) clock: i64,
    pub(crate) misbehaviours: Misbehaviours,
    pub(crate) tls: Option<TlsVersion>,
    pub(crate) plain: bool,
    pub(crate) system_buffers: bool,
}

#[derive(Debug, Error)]
pub(crate) enum NodeError {
    #[error("cannot start the event loop: {0}")]
    Runtime(std::io::Error),
    #[error("--plain is for loopback addresses only, not {0}")]
    PlainOutside(IpAddr),
    #[error("cannot use the directory {path}: {source}")]
    Directory {
        path: String,
        source: std::io::Error,
    },
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("cannot install signal handlers: {0}")]
    Signals(std::io::Error),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Permissions(#[from] PermissionsError),
}

/// Serves until SIGTERM, SIGINT or the end of stdin. Passes the ready line to `announce`.
pub(crate) async fn serve(mut settings: Settings, announce: fn(&Value)) -> Result<(), NodeError> {
    if settings.plain && !settings.listen.is_loopback() {
        return Err(NodeError::PlainOutside(settings.listen));
    }
    let mut permissions = match &settings.permissions {
        None => Permissions::of_a_migration(),
        Some(file) => Permissions::load(file)?,
    };
    if settings.profile.no_privilege {
        permissions = permissions.without("/", "Sys.Modify");
    }
    settings.profile.no_privilege = !permissions.has("/", "Sys.Modify");
    let dir = directory(&settings.dir)?;
    let address = SocketAddr::new(settings.listen, settings.port);
    let listener = listen(address, settings.system_buffers)?;
    let token_file = settings.token_file.unwrap_or_else(|| dir.join("token"));
    let created_token = !token_file.exists();
    let token = Token::load_or_create(&token_file)?;
    let tickets = Arc::new(TicketKey::new()?);
    let identity = Identity::new(settings.listen)?;
    let tls = match settings.plain {
        true => None,
        false => Some(TlsAcceptor::from(identity.server_config(settings.tls)?)),
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(NodeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(NodeError::Signals)?;
    let mut released = signal(SignalKind::user_defined1()).map_err(NodeError::Signals)?;
    let (release_all, release) = watch::channel(false);
    let api = Arc::new(Api {
        node: settings.node.clone(),
        address: settings.listen,
        permissions,
        inventory: settings.inventory,
        guests: Guests::new(dir.clone()),
        create_guests: settings.create_guests,
        clock: settings.clock,
        tickets: Arc::clone(&tickets),
        workers: Workers::new(WorkerSettings {
            dir,
            program: settings.worker,
            node: settings.node,
            user: token.user().to_owned(),
            ticket_key: tickets.hex(),
            profile: settings.profile,
        }),
        token,
        misbehaviours: settings.misbehaviours,
        release,
    });
    let stdin_ended = wait_for_stdin_end();
    tokio::pin!(stdin_ended);
    let bound = listener.local_addr().map_err(|source| NodeError::Listen {
        address: (settings.listen, 0).into(),
        source,
    })?;
    announce(&json!({
        "address": bound.ip(),
        "port": bound.port(),
        "fingerprint": tls.is_some().then(|| identity.fingerprint()),
        "token_file": token_file,
    }));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => drop(tokio::spawn(serve_client(tcp, tls.clone(), Arc::clone(&api)))),
                Err(error) => crate::log(&format!("accept: {error}")),
            },
            _ = released.recv() => {
                release_all.send_replace(true);
                crate::log("released");
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = &mut stdin_ended => break,
        }
    }
    api.workers.stop().await;
    if created_token {
        let _ = std::fs::remove_file(&token_file);
    }
    Ok(())
}

/// Creates the directory if it is missing. Returns its absolute path, because workers receive
/// paths below it.
fn directory(path: &Path) -> Result<PathBuf, NodeError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => path.canonicalize(),
    };
    made.map_err(|source| NodeError::Directory {
        path: path.display().to_string(),
        source,
    })
}

fn listen(address: SocketAddr, system_buffers: bool) -> Result<TcpListener, NodeError> {
    let bound = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        if !system_buffers {
            // Accepted connections inherit these.
            socket.set_recv_buffer_size(SOCKET_BUFFER)?;
            socket.set_send_buffer_size(SOCKET_BUFFER)?;
        }
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|source| NodeError::Listen { address, source })
}

/// Resolves at the end of stdin. A thread reads it, because stdin may be a file, and an event loop
/// cannot poll files.
fn wait_for_stdin_end() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let mut sink = [0; 512];
        let mut stdin = std::io::stdin();
        while matches!(stdin.read(&mut sink), Ok(count) if count > 0) {}
        let _ = sender.send(());
    });
    receiver
}

async fn serve_client(tcp: TcpStream, tls: Option<TlsAcceptor>, api: Arc<Api>) {
    if api.misbehaviours.hang_handshake() {
        crate::log("handshake: silent");
        return discard(tcp).await;
    }
    let _ = tcp.set_nodelay(true);
    let connection = match tls {
        None => Connection::Plain(tcp),
        Some(acceptor) => match timeout(HEAD_LIMIT, acceptor.accept(tcp)).await {
            Ok(Ok(stream)) => Connection::Tls(Box::new(stream)),
            Ok(Err(error)) => return crate::log(&format!("handshake: {error}")),
            Err(_) => return crate::log("handshake: too slow"),
        },
    };
    let service = service_fn(move |request| Arc::clone(&api).handle(request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_LINES)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        crate::log(&format!("connection: {error}"));
    }
}

/// Reads and discards everything until the client disconnects, and sends nothing.
async fn discard(tcp: TcpStream) {
    let mut sink = [0; 4096];
    while tcp.readable().await.is_ok() {
        match tcp.try_read(&mut sink) {
            Ok(0) => return,
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}
