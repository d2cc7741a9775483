//! The two requests of a tunnel, answered as pveproxy answers them.

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
use serde_json::{Map, Value, json};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::form;
use crate::misbehave::Misbehaviours;
use crate::relay::{self, Release};
use crate::ticket::{TicketKey, Token};
use crate::wire::Wire;
use crate::worker::{Kind, Workers};

/// Largest form that pveproxy reads.
const BODY_LIMIT: usize = 512 * 1024;
/// How long pveproxy takes to say 401.
const UNAUTHORIZED_DELAY: Duration = Duration::from_secs(3);

type Answer = Response<Full<Bytes>>;

/// What answering needs to know of the node.
pub(crate) struct Api {
    pub(crate) node: String,
    pub(crate) token: Token,
    pub(crate) tickets: Arc<TicketKey>,
    pub(crate) workers: Workers,
    pub(crate) misbehaviours: Misbehaviours,
    pub(crate) release: Release,
}

/// Why a request is refused: a status, and the reason for the status line.
struct Refused(StatusCode, String);

impl Refused {
    fn internal(reason: impl ToString) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, reason.to_string())
    }
}

impl Api {
    /// Answers one request and logs its method, path and status — never query, headers or body.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Answer, Infallible> {
        let shown = format!("{} {}", request.method(), request.uri().path());
        let answer = match self.dispatch(request).await {
            Ok(answer) => answer,
            Err(Refused(status, reason)) => {
                if status == StatusCode::UNAUTHORIZED && self.misbehaviours.slow_401() {
                    tokio::time::sleep(UNAUTHORIZED_DELAY).await;
                }
                refusal(status, &reason)
            }
        };
        crate::log(&format!("{shown} {}", answer.status().as_u16()));
        Ok(answer)
    }

    async fn dispatch(&self, request: Request<Incoming>) -> Result<Answer, Refused> {
        let unauthorized = |reason: &str| Refused(StatusCode::UNAUTHORIZED, reason.to_owned());
        let given = request.headers().get(AUTHORIZATION);
        let given = given.ok_or_else(|| unauthorized("No ticket"))?;
        if !self.token.admits(given.as_bytes()) {
            return Err(unauthorized("invalid API token"));
        }
        let unknown = || {
            let shown = format!("Method '{} {}'", request.method(), request.uri().path());
            Refused(
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

    /// Kind, guest and action of `/api2/json/nodes/<node>/<kind>/<vmid>/<action>`.
    fn route(&self, path: &str) -> Result<Option<(Kind, u32, String)>, Refused> {
        let Some(rest) = path.strip_prefix("/api2/json/nodes/") else {
            return Ok(None);
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let [node, kind, vmid, action] = parts.as_slice() else {
            return Ok(None);
        };
        if *node != self.node {
            return Err(Refused::internal("no such cluster node"));
        }
        let vmid = vmid
            .parse()
            .ok()
            .filter(|vmid| (100..1_000_000_000).contains(vmid));
        let vmid = vmid.ok_or_else(|| {
            let reason = "Parameter verification failed.";
            Refused(StatusCode::BAD_REQUEST, reason.to_owned())
        })?;
        Ok(Kind::from_path(kind).map(|kind| (kind, vmid, (*action).to_owned())))
    }

    async fn open_tunnel(
        &self,
        kind: Kind,
        vmid: u32,
        request: Request<Incoming>,
    ) -> Result<Answer, Refused> {
        let body = Limited::new(request.into_body(), BODY_LIMIT)
            .collect()
            .await;
        let body = body
            .map_err(|_| Refused(StatusCode::NOT_IMPLEMENTED, "for data too large".to_owned()))?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let params: Map<String, Value> = form::pairs(&body)
            .into_iter()
            .map(|(key, value)| (key, Value::from(value)))
            .collect();
        let started = self
            .workers
            .start(kind, vmid, params)
            .await
            .map_err(Refused::internal)?;
        let socket = started.socket.display().to_string();
        let data = json!({
            "upid": upid(&self.node, started.pid, vmid, self.token.user()),
            "ticket": self.tickets.make(self.token.user(), &socket),
            "socket": socket,
        });
        let mut answer = Response::new(Full::from(json!({ "data": data }).to_string()));
        let json_type = HeaderValue::from_static("application/json;charset=UTF-8");
        answer.headers_mut().insert(CONTENT_TYPE, json_type);
        Ok(answer)
    }

    async fn upgrade(&self, mut request: Request<Incoming>) -> Result<Answer, Refused> {
        let pairs = form::pairs(request.uri().query().unwrap_or(""));
        let value = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str()).unwrap_or("")
        };
        let (ticket, socket) = (value("ticket"), PathBuf::from(value("socket")));
        if !self
            .tickets
            .admits(ticket, self.token.user(), value("socket"))
        {
            let reason = "permission denied - invalid PVETUNNEL ticket";
            return Err(Refused(StatusCode::UNAUTHORIZED, reason.to_owned()));
        }
        let accept = accept_key(&request)?;
        let control = self.workers.is_control(&socket).await;
        let behaviour = self.misbehaviours.of_connection(control);
        if let Some((status, reason)) = &behaviour.refuse {
            let status = StatusCode::from_u16(*status).map_err(Refused::internal)?;
            return Err(Refused(status, reason.clone()));
        }
        let local = match UnixStream::connect(&socket).await {
            Ok(local) => local,
            Err(_) if behaviour.silent_missing_socket => {
                crate::log(&format!("relay {}: no such socket, silent", name(&socket)));
                std::future::pending().await
            }
            Err(error) => {
                let reason = format!("connect to '{}' failed: {error}", socket.display());
                return Err(Refused::internal(reason));
            }
        };
        let upgraded = hyper::upgrade::on(&mut request);
        let release = self.release.clone();
        let label = name(&socket);
        tokio::spawn(async move {
            // Both fail only when the client has gone in between.
            let Ok(upgraded) = upgraded.await else { return };
            let Ok(parts) = upgraded.downcast::<TokioIo<Wire>>() else {
                return;
            };
            let early = parts.read_buf.to_vec();
            let wire = parts.io.into_inner();
            relay::run(wire, early, local, &behaviour, release, &label).await;
        });
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        Ok(answer)
    }
}

/// Checks the upgrade's headers as pveproxy does; the value for `Sec-WebSocket-Accept`.
fn accept_key(request: &Request<Incoming>) -> Result<HeaderValue, Refused> {
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let protocol = header(UPGRADE).unwrap_or("");
    if !protocol.eq_ignore_ascii_case("websocket") {
        return Err(Refused::internal(format!(
            "unable to upgrade to protocol '{protocol}'"
        )));
    }
    if header(SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(Refused::internal("unsupported websocket-version"));
    }
    let key =
        header(SEC_WEBSOCKET_KEY).ok_or_else(|| Refused::internal("missing websocket-key"))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(Refused::internal)
}

/// An answer whose status line carries the reason, as all of pveproxy's errors do.
fn refusal(status: StatusCode, reason: &str) -> Answer {
    let line: String = reason
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { ' ' })
        .collect();
    let mut answer = Response::new(Full::from(json!({ "data": null }).to_string()));
    *answer.status_mut() = status;
    if let Ok(phrase) = ReasonPhrase::try_from(line.into_bytes()) {
        answer.extensions_mut().insert(phrase);
    }
    // pveproxy does not keep a connection after an error.
    answer
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// A task's name in the form that Proxmox VE gives it.
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

/// A socket's name without its directory, for the log.
fn name(socket: &Path) -> String {
    socket
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
