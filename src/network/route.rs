//! The way the kernel would take to an address.

use std::net::IpAddr;

use ipnet::IpNet;

use super::spec::MIN_PREFIX;

/// What the kernel would do with a connection to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The node's own address that the connection would have.
    pub source: IpAddr,
    /// Name of the interface it would leave by.
    pub interface: String,
    /// The router it would be handed to; none if the address is on the interface's own network.
    /// May be IPv6 for an IPv4 destination (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// The destination of the route that matched.
    pub destination: IpNet,
    /// The address is one of this node's own: a connection would not leave it.
    pub local: bool,
}

impl Route {
    /// Whether the route is there for everything that has no other: `0.0.0.0/0`, `::/0`, and any
    /// that is wider than a migration network may be, such as the halves `0.0.0.0/1` and
    /// `128.0.0.0/1` that VPN clients set over a default route, or `2000::/3`.
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() < MIN_PREFIX && !self.local
    }
}
