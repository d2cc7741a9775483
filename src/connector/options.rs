//! What a caller can set.

use crate::capability::scalar;
use crate::direct::DEAD_PEER_TIMEOUT;
use crate::process::seconds;
use crate::websocket::Masking;
use serde::Deserialize;
use std::time::Duration;

/// What can be set. All times are limits, in seconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Masking keys on TLS connections; a connection without TLS always uses random ones.
    pub mask: Masking,
    /// For a TCP connection.
    #[serde(deserialize_with = "seconds")]
    pub connect_timeout: Duration,
    /// For the TLS handshake.
    #[serde(deserialize_with = "seconds")]
    pub handshake_timeout: Duration,
    /// For the answer to the websocket upgrade. pveproxy takes 3 s to say 401, and never answers if
    /// the socket behind it is gone.
    #[serde(deserialize_with = "seconds")]
    pub upgrade_timeout: Duration,
    /// For the worker's answer to the request for a ticket. The worker may be busy with another
    /// command meanwhile.
    #[serde(deserialize_with = "seconds")]
    pub ticket_timeout: Duration,
    /// How long a connection through the target's API may make no progress.
    #[serde(deserialize_with = "seconds")]
    pub dead_peer_timeout: Duration,
    /// The parent's death is an order to end. Its parent is a thread: one that starts us and then
    /// ends while its process goes on must not ask for this.
    #[serde(deserialize_with = "scalar::deserialize_flag")]
    pub end_with_parent: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mask: Masking::Zero,
            connect_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            upgrade_timeout: Duration::from_secs(20),
            ticket_timeout: Duration::from_secs(30),
            dead_peer_timeout: DEAD_PEER_TIMEOUT,
            end_with_parent: false,
        }
    }
}
