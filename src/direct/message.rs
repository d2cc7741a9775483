//! The seam's answers about direct connections, which the target sends over the control plane.
//!
//! Unknown fields are ignored, so that a newer target may send more. Numbers may arrive as strings,
//! because Perl does not distinguish the two.

use super::SessionKey;
use crate::lanes::Compression;
use crate::plane::Plane;
use crate::scalar;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::net::IpAddr;
use zeroize::Zeroizing;

/// Most addresses of a listener: more than a node has in one network. Further ones are not dialled.
pub const MAX_ADDRESSES: usize = 16;

/// Longest path of a UNIX socket, in bytes: `sun_path` has 108, the last of them zero (unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;

/// Whether a text is an absolute path that a UNIX socket can have.
pub(crate) fn is_socket_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= MAX_SOCKET_PATH && !path.contains('\0')
}

/// A reason of the target, as the source shows it: the target's messages call the target "this node", which is
/// the source for those that read it there.
pub fn shown_on_source(reason: &str) -> String {
    reason.replace("this node", "the target")
}

/// The answer to `hello`: what the target offers.
#[derive(Debug, Clone, Deserialize)]
pub struct Offer {
    /// The newest protocol that the target supports.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub protocol: u16,
    /// The oldest protocol; the newest if absent.
    #[serde(default, deserialize_with = "scalar::deserialize_optional_number")]
    pub oldest: Option<u16>,
    /// Capability names, as in the version reply.
    #[serde(default)]
    pub caps: serde_json::Value,
    /// Why a capability of the software is not offered, by name.
    #[serde(default)]
    pub withheld: std::collections::BTreeMap<String, String>,
    /// The mistake in the target's configuration, which may forbid the migration. Absent without
    /// one, and from older targets.
    #[serde(default)]
    pub misconfigured: Option<String>,
    /// The names of the compressions that the target accepts in protocol 2; none if absent.
    #[serde(default)]
    pub compression: serde_json::Value,
    /// The target's listener accepts lanes through the API.
    #[serde(default)]
    pub websocket_lanes: serde_json::Value,
    /// The version of the target's software.
    #[serde(default)]
    pub version: Option<String>,
}

impl Offer {
    /// Whether the target's listener accepts lanes through its API, in protocol 2.
    pub(crate) fn has_websocket_lanes(&self) -> bool {
        scalar::flag(&self.websocket_lanes) == Some(true)
    }

    /// Whether the target accepts data that is compressed in this way.
    pub(crate) fn accepts(&self, compression: Compression) -> bool {
        let names = self.compression.as_array().into_iter().flatten();
        names
            .filter_map(serde_json::Value::as_str)
            .any(|name| name == compression.name())
    }
}

/// The answer to `open`: where the listener is, and what the source needs to connect.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Open {
    /// The protocol that the listener uses.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub protocol: u16,
    /// `tls` or `tcp`.
    pub plane: Plane,
    /// Literal addresses, all of them the target's; the first is preferred.
    pub addresses: Vec<IpAddr>,
    /// One port for all of them.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub port: u16,
    /// `tls`: SHA-256 of the listener's one-time certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// 64 hexadecimal digits.
    #[serde(serialize_with = "key_to_hex", deserialize_with = "key_from_hex")]
    pub key: SessionKey,
    /// The listener sends every byte of the heartbeat back; an older one may answer with less.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub echo: bool,
}

/// The answer to `open` for lanes through the target's API: where pveproxy reaches the listener.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenSocket {
    /// The protocol that the listener uses.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub protocol: u16,
    /// `websocket`.
    pub plane: Plane,
    /// The path of the listener's UNIX socket, for tickets.
    pub path: String,
    /// 64 hexadecimal digits.
    #[serde(serialize_with = "key_to_hex", deserialize_with = "key_from_hex")]
    pub key: SessionKey,
}

/// The answer to `forward`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Registered {
    /// The forward number for a handshake, from 1.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub number: u32,
}

/// The answer to `stat` and to `close`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stat {
    /// `tls`, `tcp`, or `websocket`.
    pub plane: Plane,
    /// All connections that were accepted.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub connections: u64,
    /// Connections whose handshake is not over.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub half_open: u64,
    /// Every forward that was registered.
    pub forwards: Vec<ForwardStat>,
    /// Connections that were refused.
    pub refused: Refused,
}

/// One forward.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ForwardStat {
    /// Its number.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub number: u32,
    /// The target's socket.
    pub path: String,
    /// Connections accepted.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub connections: u64,
    /// Connections that are open.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub open: u64,
    /// Connections that ended in an error; zero from a target that does not count them.
    #[serde(default, deserialize_with = "scalar::deserialize_number")]
    pub failed: u64,
    /// Bytes from the source.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub received: u64,
    /// Bytes to the source.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub sent: u64,
}

/// Connections that were refused, by reason.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Refused {
    /// No TLS, or another certificate than the pinned one.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub tls: u64,
    /// No handshake within the limit.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub silent: u64,
    /// A handshake that was cut off.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub malformed: u64,
    /// A proof with another key: a wrong or a replayed handshake.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub key: u64,
    /// A forward that is not registered.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub number: u64,
    /// Dropped during its handshake in favour of a newer connection, or above the limit of a forward.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub crowded: u64,
    /// The target's socket did not accept a connection.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub socket: u64,
    /// A second heartbeat; zero from a target that does not count them.
    #[serde(deserialize_with = "scalar::deserialize_number")]
    pub heartbeat: u64,
}

impl Refused {
    /// The sum of all reasons.
    pub fn total(&self) -> u64 {
        let Self {
            tls,
            silent,
            malformed,
            key,
            number,
            crowded,
            socket,
            heartbeat,
        } = self;
        tls + silent + malformed + key + number + crowded + socket + heartbeat
    }
}

fn key_to_hex<S: Serializer>(key: &SessionKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&key.to_hex())
}

fn key_from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SessionKey, D::Error> {
    let text = Zeroizing::new(String::deserialize(deserializer)?);
    SessionKey::from_hex(&text)
        .ok_or_else(|| de::Error::custom("the session key is not 64 hexadecimal digits"))
}
