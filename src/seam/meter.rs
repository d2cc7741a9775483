//! The meter: a process at the target that discards and sends bytes, so that the planes can be
//! measured before a guest moves. The worker's Perl side runs it within these limits.

use super::socket_beside;
use serde::Serialize;

/// From the meter's start to its end, in seconds. Enough for two planes in both directions, each with the
/// longest measurement and the 10 s that a check waits for its end (160 s together), and for the negotiation
/// of the second plane (120 s).
const SECONDS: u32 = 300;

/// Longest measurement, in seconds.
const MEASUREMENT_SECONDS: u32 = 30;

/// Most bytes of one measurement: more than 30 s of any network of today.
const MEASUREMENT_BYTES: u64 = 64 << 30;

/// The socket and the limits of a meter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MeterOptions {
    /// The path of its UNIX socket.
    pub path: String,
    /// From its start to its end, in seconds.
    pub seconds: u32,
    /// The limit of one measurement, in seconds.
    pub measurement_seconds: u32,
    /// The limit of one measurement, in bytes.
    pub measurement_bytes: u64,
}

impl MeterOptions {
    /// For a worker whose own socket has this path. None if the meter's path would be too long.
    pub(super) fn beside(socket: &str) -> Option<Self> {
        Some(Self {
            path: socket_beside(socket, "meter")?,
            seconds: SECONDS,
            measurement_seconds: MEASUREMENT_SECONDS,
            measurement_bytes: MEASUREMENT_BYTES,
        })
    }
}
