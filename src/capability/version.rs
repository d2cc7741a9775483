//! The worker's answer to `version`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Capabilities, CapabilityError};
use crate::scalar;

/// The tunnel version that this software supports. It is the version of stock sources and targets.
pub const OWN_API: u32 = 2;

/// A worker's version reply.
///
/// As JSON: `{"api":2,"age":0,"caps":["insecure-remote"],"unknown":["x-y"]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReply {
    /// Newest tunnel version that the target supports.
    pub api: u32,
    /// Number of versions before `api` that it supports too.
    pub age: u32,
    /// What else it supports. An old target has no capabilities.
    #[serde(flatten)]
    pub capabilities: Capabilities,
}

/// Reads a version reply and checks that the target supports [`OWN_API`].
///
/// # Errors
/// Those of [`VersionReply::read`] and [`VersionReply::check_window`].
pub fn parse_version(reply: &str) -> Result<VersionReply, CapabilityError> {
    let version = VersionReply::read(reply)?;
    version.check_window(OWN_API)?;
    Ok(version)
}

impl VersionReply {
    /// Reads a version reply: `{"success":1,"api":2,"age":0,"caps":[…]}`. `api` and `age` may be
    /// decimal strings. Without `caps` the target has no capabilities. Other keys are ignored; a
    /// newer target may send some.
    ///
    /// # Errors
    /// The reply does not have this form; `success` is present and false (then the error has the
    /// target's `msg`); `caps` is malformed.
    pub fn read(reply: &str) -> Result<Self, CapabilityError> {
        let value: Value =
            serde_json::from_str(reply).map_err(|error| CapabilityError::NotJson {
                reason: error.to_string(),
            })?;
        let Value::Object(fields) = value else {
            return Err(CapabilityError::NotObject {
                found: scalar::kind(&value),
            });
        };
        if let Some(success) = fields.get("success") {
            if scalar::flag(success) != Some(true) {
                return Err(refusal(&fields));
            }
        }
        Ok(Self {
            api: number(&fields, "api")?,
            age: number(&fields, "age")?,
            capabilities: match fields.get("caps") {
                Some(caps) => Capabilities::from_json(caps)?,
                None => Capabilities::default(),
            },
        })
    }

    /// Checks that the target supports a source of version `own`, which must be at least `api - age`
    /// and at most `api`. Every caller of `PVE::Tunnel` makes the same comparison.
    ///
    /// # Errors
    /// The node that has to be upgraded.
    pub fn check_window(&self, own: u32) -> Result<(), CapabilityError> {
        let oldest = self.api.saturating_sub(self.age);
        if own < oldest {
            return Err(CapabilityError::TargetTooNew {
                oldest,
                api: self.api,
                own,
            });
        }
        if own > self.api {
            return Err(CapabilityError::TargetTooOld { api: self.api, own });
        }
        Ok(())
    }
}

fn refusal(fields: &Map<String, Value>) -> CapabilityError {
    let message = match fields.get("msg") {
        Some(Value::String(message)) if !message.trim().is_empty() => scalar::one_line(message),
        _ => "no reason given".to_owned(),
    };
    CapabilityError::Refused { message }
}

fn number(fields: &Map<String, Value>, key: &'static str) -> Result<u32, CapabilityError> {
    let value = fields.get(key).ok_or(CapabilityError::Missing { key })?;
    scalar::decimal(value)
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| CapabilityError::NotDecimal {
            key,
            found: match value {
                Value::Number(number) => number.to_string(),
                Value::String(text) => scalar::shown(text),
                other => scalar::kind(other).to_owned(),
            },
        })
}
