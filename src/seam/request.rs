//! The requests of a source to the seam, read strictly.

use super::SeamError;
use super::fields::{FieldError, Fields};
use crate::configuration::DEAD_PEER_TIMEOUTS;
use crate::direct::message::is_socket_path;
use crate::plane::Plane;
use crate::scalar;
use crate::tls::Fingerprint;
use serde_json::Value;

/// The operations, for messages.
const OPERATIONS: &str = "hello, open, forward, stat, meter, close";

/// Longest operation name that a message repeats, in characters.
const MAX_OPERATION_SHOWN: usize = 64;

/// Longest network in a request, in bytes.
const MAX_NETWORK: usize = 128;

/// A request.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    Hello,
    Open(Open),
    Forward { path: String },
    Stat,
    Meter,
    Close,
}

/// A request to open a listener.
#[derive(Debug, PartialEq)]
pub(super) struct Open {
    pub(super) protocol: u16,
    pub(super) plane: DirectPlane,
    /// A CIDR, an interface name or an ID; the configuration decides which.
    pub(super) network: Option<String>,
    /// Seconds.
    pub(super) dead_peer_timeout: Option<f64>,
}

/// A plane with a listener.
#[derive(Debug, PartialEq)]
pub(super) enum DirectPlane {
    /// With the fingerprint of the source's certificate.
    Tls(Fingerprint),
    Tcp,
    /// Lanes through the API.
    Websocket,
}

/// Reads a request: the value of the property `direct`.
pub(super) fn parse(direct: &Value) -> Result<Request, SeamError> {
    let fields = Fields::of(direct).map_err(|_| SeamError::NotObject)?;
    let operation = direct.get("op").and_then(Value::as_str);
    let operation = operation.ok_or(SeamError::NoOperation)?;
    let request = match operation {
        "hello" => fields
            .required("protocol", protocol)
            .map(|_| Request::Hello),
        "open" => open(&fields).map(Request::Open),
        "forward" => fields
            .required("path", path)
            .map(|path| Request::Forward { path }),
        "stat" => Ok(Request::Stat),
        "meter" => Ok(Request::Meter),
        "close" => Ok(Request::Close),
        other => {
            return Err(SeamError::UnknownOperation {
                operation: scalar::one_line_within(other, MAX_OPERATION_SHOWN),
                known: OPERATIONS,
            });
        }
    };
    request.map_err(|cause| SeamError::Request {
        operation: operation.to_owned(),
        cause,
    })
}

fn open(fields: &Fields<'_>) -> Result<Open, FieldError> {
    let protocol = fields.required("protocol", protocol)?;
    let plane = fields.required("plane", plane)?;
    let fingerprint = fields.optional("fingerprint", fingerprint)?;
    let plane = match (plane, fingerprint) {
        (Plane::Tls, None) => return Err(FieldError::Missing("fingerprint")),
        (Plane::Tls, Some(fingerprint)) => DirectPlane::Tls(fingerprint),
        (Plane::Websocket, _) => DirectPlane::Websocket,
        _ => DirectPlane::Tcp,
    };
    Ok(Open {
        protocol,
        plane,
        network: fields.optional("network", network)?,
        dead_peer_timeout: fields.optional("dead_peer_timeout", seconds)?,
    })
}

pub(super) fn protocol(value: &Value) -> Option<u16> {
    number(value).filter(|protocol| *protocol > 0)
}

/// A number of any width.
pub(super) fn number<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    T::try_from(scalar::decimal(value)?).ok()
}

/// A plane with a listener.
pub(super) fn plane(value: &Value) -> Option<Plane> {
    match value.as_str()? {
        "tls" => Some(Plane::Tls),
        "tcp" => Some(Plane::Tcp),
        "websocket" => Some(Plane::Websocket),
        _ => None,
    }
}

pub(super) fn fingerprint(value: &Value) -> Option<Fingerprint> {
    let text = value.as_str()?;
    let of_fingerprints = |c: char| c.is_ascii_hexdigit() || c == ':';
    if !text.chars().all(of_fingerprints) {
        return None;
    }
    text.parse().ok()
}

pub(super) fn path(value: &Value) -> Option<String> {
    let path = value.as_str()?;
    is_socket_path(path).then(|| path.to_owned())
}

fn network(value: &Value) -> Option<String> {
    let network = value.as_str()?;
    // The names of interfaces are UTF-8.
    let visible = |c: char| !c.is_whitespace() && !c.is_control();
    let valid = (1..=MAX_NETWORK).contains(&network.len())
        && network.chars().all(visible)
        && !scalar::has_invisible(network);
    valid.then(|| network.to_owned())
}

fn seconds(value: &Value) -> Option<f64> {
    let longest = f64::from(*DEAD_PEER_TIMEOUTS.end());
    scalar::real(value).filter(|seconds| *seconds > 0.0 && *seconds <= longest)
}
