//! The kernel's route to an address.

use std::net::IpAddr;

use ipnet::IpNet;

use super::spec::MIN_PREFIX;

/// How the kernel would send a connection to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The node's own address of the connection.
    pub source: IpAddr,
    /// Name of the outgoing interface.
    pub interface: String,
    /// The next router; none if the address is on the interface's own network. It may be IPv6 for
    /// an IPv4 destination (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// The destination of the route that matched.
    pub destination: IpNet,
    /// The address belongs to this node: a connection would not leave it.
    pub local: bool,
}

impl Route {
    /// Whether this is a default route: `0.0.0.0/0`, `::/0`, or one that is wider than a migration
    /// network may be. Examples are `2000::/3`, and `0.0.0.0/1` with `128.0.0.0/1`, which VPN
    /// clients add to override the default route.
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() < MIN_PREFIX && !self.local
    }
}
