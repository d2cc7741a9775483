//! Options of the connector.

use crate::configuration::default_dead_peer_timeout;
use crate::scalar;
use crate::tuning::{Buffer, Congestion, Settings};
use crate::websocket::Masking;
use serde::Deserialize;
use std::time::Duration;

/// Options of the connector. All times are limits, in seconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Masking keys on TLS connections; a connection without TLS always uses random ones.
    pub mask: Masking,
    /// For a TCP connection.
    #[serde(deserialize_with = "scalar::deserialize_time_limit")]
    pub connect_timeout: Duration,
    /// For the TLS handshake.
    #[serde(deserialize_with = "scalar::deserialize_time_limit")]
    pub handshake_timeout: Duration,
    /// For the answer to the websocket upgrade. pveproxy sends 401 after 3 s, and never answers if the
    /// socket behind it is gone.
    #[serde(deserialize_with = "scalar::deserialize_time_limit")]
    pub upgrade_timeout: Duration,
    /// For the worker's answer to the request for a ticket. The worker may be busy with another
    /// command.
    #[serde(deserialize_with = "scalar::deserialize_time_limit")]
    pub ticket_timeout: Duration,
    /// How long a connection through the target's API may be without progress.
    #[serde(deserialize_with = "scalar::deserialize_time_limit")]
    pub dead_peer_timeout: Duration,
    /// After this time without a sent frame, a websocket sends a ping. Proxies close connections that
    /// are idle, often after 60 s.
    #[serde(deserialize_with = "scalar::deserialize_time_limit")]
    pub ping_interval: Duration,
    /// The congestion control of connections that carry guest data.
    pub congestion: Congestion,
    /// The size of their buffers.
    pub buffer: Buffer,
    /// End when the parent dies. The kernel counts the thread that started this process as its parent: a
    /// thread that ends before its process must not set this.
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
            dead_peer_timeout: default_dead_peer_timeout(),
            ping_interval: Duration::from_secs(20),
            congestion: Congestion::Auto,
            buffer: Buffer::Auto,
            end_with_parent: false,
        }
    }
}

impl Options {
    /// What is requested for the sockets of connections that carry guest data.
    pub(super) fn tuning(&self) -> Settings {
        Settings {
            congestion: self.congestion,
            buffer: self.buffer,
        }
    }
}
