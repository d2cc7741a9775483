//! The listener's answers, checked before they go to the source.

use super::fields::{FieldError, Fields};
use super::request::{fingerprint, number, path, plane, protocol};
use crate::direct::SessionKey;
use crate::direct::message::MAX_ADDRESSES;
use crate::network::PORTS;
use crate::plane::Plane;
use crate::scalar;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

const COUNTERS: [&str; 2] = ["connections", "half_open"];
const FORWARD_COUNTERS: [&str; 4] = ["connections", "open", "received", "sent"];
const REFUSALS: [&str; 7] = [
    "tls",
    "silent",
    "malformed",
    "key",
    "number",
    "crowded",
    "socket",
];

/// Checks the listener's answer to an operation, and returns it with the known members only.
pub(super) fn check(operation: &str, answer: &Value) -> Result<Value, FieldError> {
    let fields = Fields::of(answer)?;
    match operation {
        "open" => open(&fields),
        "forward" => Ok(json!({ "number": fields.required("number", forward_number)? })),
        _ => stat(&fields),
    }
}

fn open(fields: &Fields<'_>) -> Result<Value, FieldError> {
    let plane = fields.required("plane", plane)?;
    if plane == Plane::Websocket {
        return Ok(json!({
            "protocol": fields.required("protocol", protocol)?,
            "plane": plane,
            "path": fields.required("path", path)?,
            "key": fields.required("key", key)?,
        }));
    }
    let fingerprint = fields.optional("fingerprint", fingerprint)?;
    if plane == Plane::Tls && fingerprint.is_none() {
        return Err(FieldError::Missing("fingerprint"));
    }
    let mut open = json!({
        "protocol": fields.required("protocol", protocol)?,
        "plane": plane,
        "addresses": fields.required("addresses", addresses)?,
        "port": fields.required("port", port)?,
        "key": fields.required("key", key)?,
    });
    if let Some(fingerprint) = fingerprint {
        open["fingerprint"] = fingerprint.to_string().into();
    }
    if let Some(echo) = fields.optional("echo", scalar::flag)? {
        open["echo"] = echo.into();
    }
    Ok(open)
}

fn stat(fields: &Fields<'_>) -> Result<Value, FieldError> {
    let mut stat = counters(fields, &COUNTERS)?;
    stat.insert("plane".to_owned(), json!(fields.required("plane", plane)?));
    let forwards = fields.required("forwards", forwards)?;
    stat.insert("forwards".to_owned(), forwards.into());
    let refused = fields.required("refused", refused)?;
    stat.insert("refused".to_owned(), refused.into());
    Ok(stat.into())
}

fn refused(value: &Value) -> Option<Map<String, Value>> {
    let fields = Fields::of(value).ok()?;
    let mut refused = counters(&fields, &REFUSALS).ok()?;
    let heartbeat: Option<u64> = fields.optional("heartbeat", number).ok()?;
    if let Some(heartbeat) = heartbeat {
        refused.insert("heartbeat".to_owned(), heartbeat.into());
    }
    Some(refused)
}

fn counters(fields: &Fields<'_>, names: &[&'static str]) -> Result<Map<String, Value>, FieldError> {
    names
        .iter()
        .map(|name| {
            let count: u64 = fields.required(name, number)?;
            Ok(((*name).to_owned(), count.into()))
        })
        .collect()
}

fn forwards(value: &Value) -> Option<Vec<Value>> {
    value.as_array()?.iter().map(forward).collect()
}

fn forward(value: &Value) -> Option<Value> {
    let fields = Fields::of(value).ok()?;
    let mut forward = counters(&fields, &FORWARD_COUNTERS).ok()?;
    let number = fields.required("number", forward_number).ok()?;
    forward.insert("number".to_owned(), number.into());
    let path = fields.required("path", path).ok()?;
    forward.insert("path".to_owned(), path.into());
    let failed: Option<u64> = fields.optional("failed", number_of_failures).ok()?;
    if let Some(failed) = failed {
        forward.insert("failed".to_owned(), failed.into());
    }
    Some(forward.into())
}

fn number_of_failures(value: &Value) -> Option<u64> {
    number(value)
}

/// From 1; 0 is the heartbeat.
fn forward_number(value: &Value) -> Option<u32> {
    number(value).filter(|number| *number > 0)
}

fn addresses(value: &Value) -> Option<Vec<IpAddr>> {
    let list = value.as_array()?;
    if !(1..=MAX_ADDRESSES).contains(&list.len()) {
        return None;
    }
    list.iter()
        .map(|address| address.as_str()?.parse().ok())
        .collect()
}

fn port(value: &Value) -> Option<u16> {
    number(value).filter(|port| PORTS.contains(port))
}

/// In lower case, as the listener writes it.
fn key(value: &Value) -> Option<String> {
    let key = value.as_str()?;
    let valid = SessionKey::from_hex(key).is_some_and(|parsed| *parsed.to_hex() == *key);
    valid.then(|| key.to_owned())
}
