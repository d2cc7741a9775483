//! The HTTP requests of a migration, handled as pveproxy handles them.
//!
//! | module | owns |
//! |---|---|
//! | `queries` | requests that only read |
//! | `tunnel` | `POST mtunnel` and `GET mtunnelwebsocket` |
//! | `response` | responses and errors |

mod queries;
mod response;
mod tunnel;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, DATE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use self::response::{ApiError, ApiResponse, data_response};
use crate::guests::Guests;
use crate::inventory::Inventory;
use crate::misbehave::Misbehaviours;
use crate::permissions::Permissions;
use crate::relay::Release;
use crate::ticket::{TicketKey, Token};
use crate::worker::{Kind, Workers};

/// Delay before pveproxy sends 401.
const UNAUTHORIZED_DELAY: Duration = Duration::from_secs(3);
/// IDs that a guest can have.
const VMIDS: std::ops::Range<u32> = 100..1_000_000_000;

/// The state of the node that the request handlers use.
pub(crate) struct Api {
    pub(crate) node: String,
    pub(crate) address: IpAddr,
    pub(crate) token: Token,
    pub(crate) permissions: Permissions,
    pub(crate) inventory: Inventory,
    pub(crate) guests: Guests,
    /// Whether `POST mtunnel` creates a configuration.
    pub(crate) create_guests: bool,
    /// How many seconds the clock in `Date` is ahead.
    pub(crate) clock: i64,
    pub(crate) tickets: Arc<TicketKey>,
    pub(crate) workers: Workers,
    pub(crate) misbehaviours: Misbehaviours,
    pub(crate) release: Release,
}

impl Api {
    /// Handles one request and logs its method, path and status, but not its query, headers or
    /// body.
    pub(crate) async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<ApiResponse, Infallible> {
        let shown = format!("{} {}", request.method(), request.uri().path());
        let mut response = match self.dispatch(request).await {
            Ok(response) => response,
            Err(error) => {
                if error.status == StatusCode::UNAUTHORIZED && self.misbehaviours.slow_401() {
                    tokio::time::sleep(UNAUTHORIZED_DELAY).await;
                }
                error.response()
            }
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            // Without it, hyper would set the header to the time of the system.
            response.headers_mut().insert(DATE, date(self.clock));
        }
        crate::log(&format!("{shown} {}", response.status().as_u16()));
        Ok(response)
    }

    async fn dispatch(&self, request: Request<Incoming>) -> Result<ApiResponse, ApiError> {
        let unauthorized = |reason: &str| ApiError::new(StatusCode::UNAUTHORIZED, reason);
        let given = request.headers().get(AUTHORIZATION);
        let given = given.ok_or_else(|| unauthorized("No ticket"))?;
        if !self.token.matches(given.as_bytes()) {
            return Err(unauthorized("invalid API token"));
        }
        let path = request.uri().path().to_owned();
        let unknown = format!("Method '{} {path}' not implemented", request.method());
        let unknown = || ApiError::new(StatusCode::NOT_IMPLEMENTED, unknown);
        let segments = segments(&path).ok_or_else(unknown.clone())?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let method = request.method().clone();
        let query = request.uri().query().unwrap_or("").to_owned();
        let found = match (&method, segments.as_slice()) {
            (&Method::GET, ["version"]) => self.version(),
            (&Method::GET, ["cluster", "status"]) => self.cluster_status()?,
            (&Method::GET, ["cluster", "options"]) => self.cluster_options(),
            (&Method::GET, ["cluster", "nextid"]) => self.next_id(&query).await?,
            (&Method::GET, ["access", "permissions"]) => self.token_permissions(&query)?,
            (_, ["nodes", node, ..]) if !["localhost", &self.node].contains(node) => {
                return Err(ApiError::internal("no such cluster node"));
            }
            (&Method::DELETE, ["nodes", _, "tasks", upid]) => {
                let pid = self.task(upid).ok_or_else(unknown)?;
                self.workers.stop_task(pid).await;
                Value::Null
            }
            (&Method::GET, ["nodes", _, "storage", id, "status"]) => self.storage_status(id)?,
            (&Method::GET, ["nodes", _, "network"]) => self.interfaces(),
            (&Method::GET, ["nodes", _, "network", name]) => self.interface(name)?,
            (_, ["nodes", _, kind, vmid, action]) => {
                let kind = Kind::from_path(kind).ok_or_else(unknown.clone())?;
                let vmid = vmid_parameter(vmid)?;
                match (&method, *action) {
                    (&Method::POST, "mtunnel") => self.open_tunnel(kind, vmid, request).await?,
                    (&Method::GET, "mtunnelwebsocket") => return self.upgrade(request).await,
                    (&Method::GET, "config") => self.configuration(kind, vmid).await?,
                    _ => return Err(unknown()),
                }
            }
            _ => return Err(unknown()),
        };
        Ok(data_response(found))
    }

    /// Fails if the token has none of these privileges at the path.
    fn require(&self, path: &str, privileges: &[&str]) -> Result<(), ApiError> {
        match privileges
            .iter()
            .any(|name| self.permissions.has(path, name))
        {
            true => Ok(()),
            false => Err(ApiError::forbidden(path, privileges)),
        }
    }

    /// The process ID of the worker in a task ID.
    fn task(&self, upid: &str) -> Option<u32> {
        let pid = upid
            .strip_prefix("UPID:")?
            .strip_prefix(&self.node)?
            .strip_prefix(':')?
            .split(':')
            .next()?;
        u32::from_str_radix(pid, 16).ok()
    }
}

/// The decoded components of a path after `/api2/json/`.
fn segments(path: &str) -> Option<Vec<String>> {
    let rest = path.strip_prefix("/api2/json/")?;
    let decoded = |part: &str| Some(percent_decode_str(part).decode_utf8().ok()?.into_owned());
    rest.split('/').map(decoded).collect()
}

/// Checks the ID of a guest.
fn vmid_parameter(text: &str) -> Result<u32, ApiError> {
    let refuse = |reason: String| ApiError::parameter("vmid", reason);
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return Err(refuse(format!(
            "type check ('integer') failed - got '{text}'"
        )));
    }
    let last = VMIDS.end - 1;
    match text.parse() {
        Ok(vmid) if VMIDS.contains(&vmid) => Ok(vmid),
        Ok(vmid) if vmid < VMIDS.start => Err(refuse(format!(
            "value must have a minimum value of {}",
            VMIDS.start
        ))),
        _ => Err(refuse(format!("value must have a maximum value of {last}"))),
    }
}

/// The value of `Date` (RFC 9110, section 6.6.1) by a clock that is `ahead` seconds ahead.
fn date(ahead: i64) -> HeaderValue {
    let shift = Duration::from_secs(ahead.unsigned_abs());
    let now = match ahead {
        0.. => SystemTime::now() + shift,
        _ => SystemTime::now() - shift,
    };
    // The text is ASCII, so the default is never used.
    HeaderValue::try_from(httpdate::fmt_http_date(now)).unwrap_or(HeaderValue::from_static(""))
}
