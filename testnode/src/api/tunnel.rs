//! `POST mtunnel` and `GET mtunnelwebsocket`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Api;
use super::response::{ApiError, ApiResponse, data_response};
use crate::connection::Connection;
use crate::form;
use crate::relay;
use crate::worker::Kind;

/// Largest form body that pveproxy accepts, in bytes.
const BODY_LIMIT: usize = 512 * 1024;

impl Api {
    /// Opens a tunnel. The data of the response is the task, a ticket and the command socket.
    pub(super) async fn open_tunnel(
        &self,
        kind: Kind,
        vmid: u32,
        request: Request<Incoming>,
    ) -> Result<Value, ApiError> {
        self.require(&format!("/vms/{vmid}"), &["VM.Allocate"])?;
        self.require("/", &["Sys.Incoming"])?;
        if let Some(reason) = self.misbehaviours.fail_tunnel() {
            return Err(ApiError::internal(reason));
        }
        let body = Limited::new(request.into_body(), BODY_LIMIT)
            .collect()
            .await;
        let body =
            body.map_err(|_| ApiError::new(StatusCode::NOT_IMPLEMENTED, "for data too large"))?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let params: Map<String, Value> = form::pairs(&body)
            .into_iter()
            .map(|(key, value)| (key, Value::from(value)))
            .collect();
        self.check_targets(&params)?;
        if self.create_guests {
            self.create_guest(kind, vmid)?;
        }
        let started = self.workers.start(kind, vmid, params).await;
        if started.is_err() && self.create_guests {
            self.guests.remove(vmid);
        }
        let started = started.map_err(ApiError::internal)?;
        let socket = started.socket.display().to_string();
        Ok(json!({
            "upid": upid(&self.node, started.pid, vmid, self.token.user()),
            "ticket": self.tickets.issue(self.token.user(), &socket),
            "socket": socket,
        }))
    }

    /// Checks the storages and bridges that the source intends to use.
    fn check_targets(&self, params: &Map<String, Value>) -> Result<(), ApiError> {
        let names = |key| list(params.get(key).and_then(Value::as_str).unwrap_or(""));
        for id in names("storages") {
            if self.inventory.storage(id).is_none() {
                return Err(ApiError::internal(format!("storage '{id}' does not exist")));
            }
            self.require(&format!("/storage/{id}"), &["Datastore.AllocateSpace"])?;
        }
        let missing = names("bridges").find(|name| !self.inventory.has_bridge(name));
        missing.map_or(Ok(()), |name| {
            Err(ApiError::internal(format!(
                "bridge '{name}' does not exist"
            )))
        })
    }

    /// Creates the locked configuration of a guest that does not exist yet.
    fn create_guest(&self, kind: Kind, vmid: u32) -> Result<(), ApiError> {
        let noun = kind.noun();
        self.guests.create(vmid).map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    format!("{noun} {vmid} already exists on node '{}'", self.node)
                }
                _ => error.to_string(),
            };
            let reason = format!("unable to create empty {noun} config - {reason}\n");
            ApiError::parameter("vmid", reason)
        })
    }

    /// Upgrades a connection to a websocket, and relays it to a UNIX socket.
    pub(super) async fn upgrade(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<ApiResponse, ApiError> {
        let pairs = form::pairs(request.uri().query().unwrap_or(""));
        let value = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str()).unwrap_or("")
        };
        let (ticket, socket) = (value("ticket"), PathBuf::from(value("socket")));
        if !self
            .tickets
            .authorizes(ticket, self.token.user(), value("socket"))
        {
            let reason = "permission denied - invalid PVETUNNEL ticket";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, reason));
        }
        if !request.headers().contains_key(UPGRADE) {
            // The answer of the API method, with which pveproxy upgrades a connection.
            return Ok(data_response(json!({ "socket": socket })));
        }
        let accept = accept_key(&request)?;
        let control = self.workers.is_control(&socket).await;
        let behaviour = self.misbehaviours.of_connection(control);
        if let Some((status, reason)) = &behaviour.refuse {
            let status = StatusCode::from_u16(*status).map_err(ApiError::internal)?;
            return Err(ApiError::new(status, reason.clone()));
        }
        let local = match UnixStream::connect(&socket).await {
            Ok(local) => local,
            Err(_) if behaviour.silent_missing_socket => {
                crate::log(&format!(
                    "relay {}: no such socket, sending no response",
                    name(&socket)
                ));
                std::future::pending().await
            }
            Err(error) => {
                let reason = format!("connect to '{}' failed: {error}", socket.display());
                return Err(ApiError::internal(reason));
            }
        };
        let upgraded = hyper::upgrade::on(&mut request);
        let release = self.release.clone();
        let label = name(&socket);
        tokio::spawn(async move {
            // Both fail only if the client has disconnected meanwhile.
            let Ok(upgraded) = upgraded.await else { return };
            let Ok(parts) = upgraded.downcast::<TokioIo<Connection>>() else {
                return;
            };
            let early = parts.read_buf.to_vec();
            let connection = parts.io.into_inner();
            relay::run(connection, early, local, &behaviour, release, &label).await;
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        Ok(response)
    }
}

/// Checks the headers of the upgrade as pveproxy does and returns the value of
/// `Sec-WebSocket-Accept`.
fn accept_key(request: &Request<Incoming>) -> Result<HeaderValue, ApiError> {
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let protocol = header(UPGRADE).unwrap_or("");
    if !protocol.eq_ignore_ascii_case("websocket") {
        return Err(ApiError::internal(format!(
            "unable to upgrade to protocol '{protocol}'"
        )));
    }
    if header(SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(ApiError::internal("unsupported websocket-version"));
    }
    let key =
        header(SEC_WEBSOCKET_KEY).ok_or_else(|| ApiError::internal("missing websocket-key"))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(ApiError::internal)
}

/// The names in a list as Proxmox VE separates them.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', '\t', '\n', '\r', '\0', ',', ';'])
        .filter(|name| !name.is_empty())
}

/// A task ID (UPID) in the format of Proxmox VE.
fn upid(node: &str, pid: u32, vmid: u32, user: &str) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    format!(
        "UPID:{node}:{pid:08X}:{:08X}:{now:08X}:qmtunnel:{vmid}:{user}!demo:",
        0
    )
}

/// The file name of a socket, for the log.
fn name(socket: &Path) -> String {
    socket
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
