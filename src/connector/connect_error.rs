//! Why there is no connection to the listener.

use super::dial::DialError;
use super::worker::RequestError;
use crate::direct::{HandshakeError, ProbeError};
use crate::plane::Plane;
use crate::tls::TlsError;
use std::io;
use std::time::Duration;
use thiserror::Error;

/// Why there is no connection to the listener.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    /// Not what was requested.
    #[error(
        "the target opened plane '{}' with protocol {protocol}, which was not requested",
        plane.name()
    )]
    OtherPlane { plane: Plane, protocol: u16 },
    /// No TCP connection.
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    /// The TLS handshake failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The handshake of the direct connection failed.
    #[error(transparent)]
    Handshake(HandshakeError),
    /// The network path does not deliver packets of full size.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The listener did not answer.
    #[error("no {what} within {limit:?}")]
    TimedOut { what: &'static str, limit: Duration },
    /// The target was marked dead before.
    #[error("{0}")]
    Dead(String),
    /// No websocket to the listener.
    #[error(transparent)]
    Websocket(#[from] DialError),
    /// The worker's listener has ended, or it gives no ticket for it.
    #[error("the target's worker: {0}")]
    Worker(#[from] RequestError),
}
