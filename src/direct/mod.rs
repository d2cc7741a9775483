//! The direct connection between the two nodes, as both of its ends use it.
//!
//! * [`SessionKey`] and `handshake`: which process may connect, and to which forward;
//! * `lane`: the connections that carry one stream together, and `lane_threads` that serve them;
//! * `link`: a connection from its handshake to its end, over TLS (`tls_halves`), clear TCP
//!   ([`crate::relay::splice()`]), or a UNIX socket that stands for a websocket (`plain_halves` for lanes);
//! * `path_probe` and `acknowledgement`: whether the network path delivers packets of full size, before
//!   and while a plane is used;
//! * `heartbeat`: the connection by which each node detects that the other one is dead, and
//!   `peer_liveness`, which reports it to every other connection;
//! * [`message`]: the messages about direct connections on the control plane.

mod acknowledgement;
pub(crate) mod handshake;
pub(crate) mod heartbeat;
mod key;
pub(crate) mod lane;
mod lane_threads;
mod link;
pub mod message;
mod path_probe;
mod peer_liveness;
mod plain_halves;
mod tls_halves;

pub use handshake::HandshakeError;
pub use key::SessionKey;
pub(crate) use lane::{ForwardLanes, LaneResources, LaneSettings, Windows};
pub(crate) use link::{Link, LinkError, WebsocketEnd};
pub(crate) use path_probe::ProbeError;
pub(crate) use peer_liveness::PeerLiveness;

use std::time::Duration;

/// The newest protocol that this software supports.
pub const PROTOCOL: u16 = 2;

/// The first protocol in which a stream may use several connections.
pub const LANES_PROTOCOL: u16 = 2;

/// The oldest protocol that this software supports.
pub const OLDEST_PROTOCOL: u16 = 1;

/// Default limit from accepting a connection to the end of its handshake, TLS included.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The forward number of the heartbeat.
pub(crate) const HEARTBEAT: u32 = 0;
