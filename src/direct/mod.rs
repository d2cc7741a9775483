//! The direct connection, as both of its ends see it.
//!
//! * [`SessionKey`] and `hello`: who may connect, and to which forward;
//! * `link`: a connection from there to its end, over TLS (`wire`) or clear TCP ([`crate::relay::splice`]);
//! * `watch`: the connection by which each node knows that the other one is alive, and
//!   `fate`, by which every other connection hears when it is not;
//! * [`message`]: what is said about all this over the control plane.

mod fate;
pub(crate) mod hello;
mod key;
mod link;
pub mod message;
pub(crate) mod watch;
mod wire;

pub(crate) use fate::Fate;
pub use hello::HelloError;
pub use key::SessionKey;
pub(crate) use link::{Link, LinkError, Stream};

use crate::configuration;
use std::time::Duration;

/// The newest protocol that this software speaks.
pub const PROTOCOL: u16 = 1;

/// The oldest.
pub const OLDEST_PROTOCOL: u16 = 1;

/// The forward number that stands for the watch.
pub(crate) const WATCH: u32 = 0;

/// How long the other node may be silent before it counts as dead, unless configured otherwise.
pub const DEAD_PEER_TIMEOUT: Duration =
    Duration::from_secs(configuration::DEAD_PEER_TIMEOUT as u64);
