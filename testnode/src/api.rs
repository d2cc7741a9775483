//! The HTTP requests of a tunnel, handled as pveproxy handles them.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::connection::Connection;
use crate::form;
use crate::misbehave::Misbehaviours;
use crate::relay::{self, Release};
use crate::ticket::{TicketKey, Token};
use crate::worker::{Kind, Workers};

/// Largest form body that pveproxy accepts, in bytes.
const BODY_LIMIT: usize = 512 * 1024;
/// Delay before pveproxy sends 401.
const UNAUTHORIZED_DELAY: Duration = Duration::from_secs(3);

type ApiResponse = Response<Full<Bytes>>;

/// The state of the node that the request handlers use.
pub(crate) struct Api {
    pub(crate) node: String,
    pub(crate) token: Token,
    pub(crate) tickets: Arc<TicketKey>,
    pub(crate) workers: Workers,
    pub(crate) misbehaviours: Misbehaviours,
    pub(crate) release: Release,
}

/// Why a request fails: the status and the reason phrase of the status line.
struct ApiError(StatusCode, String);

impl ApiError {
    fn internal(reason: impl ToString) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, reason.to_string())
    }
}

impl Api {
    /// Handles one request and logs its method, path and status, but not its query, headers or
    /// body.
    pub(crate) async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<ApiResponse, Infallible> {
        let shown = format!("{} {}", request.method(), request.uri().path());
        let response = match self.dispatch(request).await {
            Ok(response) => response,
            Err(ApiError(status, reason)) => {
                if status == StatusCode::UNAUTHORIZED && self.misbehaviours.slow_401() {
                    tokio::time::sleep(UNAUTHORIZED_DELAY).await;
                }
                error_response(status, &reason)
            }
        };
        crate::log(&format!("{shown} {}", response.status().as_u16()));
        Ok(response)
    }

    async fn dispatch(&self, request: Request<Incoming>) -> Result<ApiResponse, ApiError> {
        let unauthorized = |reason: &str| ApiError(StatusCode::UNAUTHORIZED, reason.to_owned());
        let given = request.headers().get(AUTHORIZATION);
        let given = given.ok_or_else(|| unauthorized("No ticket"))?;
        if !self.token.matches(given.as_bytes()) {
            return Err(unauthorized("invalid API token"));
        }
        if let Some(pid) = self.task(request.uri().path()) {
            if request.method() == Method::DELETE {
                self.workers.stop_task(pid).await;
                return Ok(json_response(&json!({ "data": null })));
            }
        }
        let unknown = || {
            let shown = format!("Method '{} {}'", request.method(), request.uri().path());
            ApiError(
                StatusCode::NOT_IMPLEMENTED,
                format!("{shown} not implemented"),
            )
        };
        let (kind, vmid, action) = self.route(request.uri().path())?.ok_or_else(unknown)?;
        match (request.method(), action.as_str()) {
            (&Method::POST, "mtunnel") => self.open_tunnel(kind, vmid, request).await,
            (&Method::GET, "mtunnelwebsocket") => self.upgrade(request).await,
            _ => Err(unknown()),
        }
    }

    /// The process ID of the worker in `/api2/json/nodes/<node>/tasks/<upid>`.
    fn task(&self, path: &str) -> Option<u32> {
        let upid = path
            .strip_prefix("/api2/json/nodes/")?
            .strip_prefix(&self.node)?
            .strip_prefix("/tasks/")?;
        let upid = percent_decode_str(upid).decode_utf8().ok()?;
        let pid = upid
            .strip_prefix("UPID:")?
            .strip_prefix(&self.node)?
            .strip_prefix(':')?
            .split(':')
            .next()?;
        u32::from_str_radix(pid, 16).ok()
    }

    /// Kind, guest and action of `/api2/json/nodes/<node>/<kind>/<vmid>/<action>`.
    fn route(&self, path: &str) -> Result<Option<(Kind, u32, String)>, ApiError> {
        let Some(rest) = path.strip_prefix("/api2/json/nodes/") else {
            return Ok(None);
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let [node, kind, vmid, action] = parts.as_slice() else {
            return Ok(None);
        };
        if *node != self.node {
            return Err(ApiError::internal("no such cluster node"));
        }
        let vmid = vmid
            .parse()
            .ok()
            .filter(|vmid| (100..1_000_000_000).contains(vmid));
        let vmid = vmid.ok_or_else(|| {
            let reason = "Parameter verification failed.";
            ApiError(StatusCode::BAD_REQUEST, reason.to_owned())
        })?;
        Ok(Kind::from_path(kind).map(|kind| (kind, vmid, (*action).to_owned())))
    }

    async fn open_tunnel(
        &self,
        kind: Kind,
        vmid: u32,
        request: Request<Incoming>,
    ) -> Result<ApiResponse, ApiError> {
        let body = Limited::new(request.into_body(), BODY_LIMIT)
            .collect()
            .await;
        let body = body
            .map_err(|_| ApiError(StatusCode::NOT_IMPLEMENTED, "for data too large".to_owned()))?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let params: Map<String, Value> = form::pairs(&body)
            .into_iter()
            .map(|(key, value)| (key, Value::from(value)))
            .collect();
        let started = self
            .workers
            .start(kind, vmid, params)
            .await
            .map_err(ApiError::internal)?;
        let socket = started.socket.display().to_string();
        let data = json!({
            "upid": upid(&self.node, started.pid, vmid, self.token.user()),
            "ticket": self.tickets.issue(self.token.user(), &socket),
            "socket": socket,
        });
        Ok(json_response(&json!({ "data": data })))
    }

    async fn upgrade(&self, mut request: Request<Incoming>) -> Result<ApiResponse, ApiError> {
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
            return Err(ApiError(StatusCode::UNAUTHORIZED, reason.to_owned()));
        }
        let accept = accept_key(&request)?;
        let control = self.workers.is_control(&socket).await;
        let behaviour = self.misbehaviours.of_connection(control);
        if let Some((status, reason)) = &behaviour.refuse {
            let status = StatusCode::from_u16(*status).map_err(ApiError::internal)?;
            return Err(ApiError(status, reason.clone()));
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

fn json_response(body: &Value) -> ApiResponse {
    let mut response = Response::new(Full::from(body.to_string()));
    let json_type = HeaderValue::from_static("application/json;charset=UTF-8");
    response.headers_mut().insert(CONTENT_TYPE, json_type);
    response
}

/// A response with the reason in its status line, as in every error response of pveproxy.
fn error_response(status: StatusCode, reason: &str) -> ApiResponse {
    let line: String = reason
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { ' ' })
        .collect();
    let mut response = Response::new(Full::from(json!({ "data": null }).to_string()));
    *response.status_mut() = status;
    if let Ok(phrase) = ReasonPhrase::try_from(line.into_bytes()) {
        response.extensions_mut().insert(phrase);
    }
    // pveproxy closes the connection after an error.
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
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
