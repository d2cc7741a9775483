//! Which address a migration uses, its port, and which endpoints of a target are acceptable.
//!
//! * [`Spec`] is a migration network as an operator writes it: CIDR, interface name, or none;
//! * [`address`] chooses this node's address for it, with the rules of a migration inside a cluster;
//! * [`Lookup`] is where addresses, names and routes come from: [`SystemLookup`] asks kernel and resolver, tests hand in a table;
//! * [`bind_port`] takes a port of the migration range, bound and listening;
//! * [`endpoint`] judges what a target announces for QEMU's own connections;
//! * [`guard`] judges whether guest data may go to an address in clear text.
//!
//! # Before anybody connects in clear text
//!
//! For `tcp`, where the connection is ours, the announced address goes through [`guard::check`]. The
//! connection is then bound to the address and interface of the verdict, so that a route that changes
//! between check and connection, or during a migration, ends it instead of leading it elsewhere.
//!
//! For `qemu`, where QEMU connects, each announced endpoint, that of the RAM stream and that of every
//! disk, goes through both, in this order:
//!
//! 1. [`endpoint::check`] reads it: form, port range, export name, and the address inside the network
//!    if that is a CIDR. It needs nothing but the text, and gives the [`endpoint::Endpoint`].
//! 2. [`guard::check`] with the [`endpoint::Endpoint::address`] of its result, once for each different
//!    address: scope, network, route and source address, which only the kernel knows.
//! 3. QEMU is told the [`endpoint::Endpoint::uri`] of the first, never the target's own text.
//!
//! Neither replaces the other: `endpoint` knows no routes, `guard` no ports and exports. Both take the
//! same `network`; where it is an interface name, `endpoint` gets none, as the name says nothing of the target there. Loopback
//! needs `allow_loopback` there and a network inside the loopback range here. QEMU binds its
//! connections to nothing, so the check holds for the routes at the time of the check: have it as
//! late as possible, just before QEMU is told to connect.

mod announced;
mod choice;
pub mod endpoint;
pub mod guard;
mod lookup;
mod port;
mod route;
mod scope;
mod spec;

pub use choice::address;
pub use lookup::SystemLookup;
pub use port::{BoundPort, PORTS, bind_port};
pub use route::Route;
pub use scope::Scope;
pub use spec::Spec;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An address of this node, as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Name of the interface it is on.
    pub interface: String,
    /// The node's own address, not the peer's of a point-to-point link.
    pub address: IpAddr,
    /// Length of the prefix, in bits.
    pub prefix_len: u8,
    /// Whether the interface is up (`IFF_UP`; a cable is not needed).
    pub up: bool,
    /// An IPv6 privacy address, which changes every few hours.
    pub temporary: bool,
    /// Its preferred lifetime is over: valid for old connections, not for new ones.
    pub deprecated: bool,
    /// IPv6 duplicate detection is still running: it cannot be bound yet.
    pub tentative: bool,
    /// IPv6 duplicate detection found it elsewhere: it must not be used.
    pub duplicate: bool,
}

impl InterfaceAddress {
    /// A plain address of an interface that is up.
    pub fn new(interface: &str, address: IpAddr, prefix_len: u8) -> Self {
        Self {
            interface: interface.to_owned(),
            address,
            prefix_len,
            up: true,
            temporary: false,
            deprecated: false,
            tentative: false,
            duplicate: false,
        }
    }
}

/// Where addresses and names come from.
pub trait Lookup {
    /// Every address of this node, of interfaces that are down too: errors list them.
    ///
    /// # Errors
    /// The addresses cannot be read; [`NetworkError::Interrupted`] if a signal came first.
    fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetworkError>;

    /// The addresses a host name stands for, in the resolver's order.
    ///
    /// # Errors
    /// The name cannot be resolved.
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError>;

    /// Which way a TCP connection to a port of [`PORTS`] at this address would take, if it were made
    /// now and its socket were bound to nothing.
    ///
    /// # Errors
    /// [`NetworkError::NoRoute`] if there is none, or one that refuses (unreachable, blackhole,
    /// prohibit), or the address is a broadcast one; the kernel cannot be asked;
    /// [`NetworkError::Interrupted`] if a signal came first.
    fn route(&self, destination: IpAddr) -> Result<Route, NetworkError>;
}

/// The address a migration network stands for on this node.
///
/// As JSON: `{"address":"192.0.2.7","prefix_len":24,"interface":"eth1","uri_host":"192.0.2.7"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// The address itself.
    pub address: IpAddr,
    /// Length of its prefix, in bits.
    pub prefix_len: u8,
    /// The first interface that has it.
    pub interface: String,
    /// The address as URIs need it, see [`uri_host`].
    pub uri_host: String,
}

/// An address as the host of a URI: IPv6 in brackets (RFC 3986, section 3.2.2).
pub fn uri_host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Why there is no address or no port.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NetworkError {
    /// The migration network is neither CIDR nor interface name.
    #[error("migration network '{spec}' {reason}")]
    Spec {
        /// The text, cut if it is long.
        spec: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nothing matches, or nothing that matches may be used.
    #[error("{network}: no usable address on this node; {seen}")]
    NoAddress {
        /// The migration network, or the node's name.
        network: String,
        /// Every address that was considered, with interface, and why it lost.
        seen: String,
    },
    /// More than one different address matches.
    #[error(
        "{network}: more than one address on this node; {seen}; name a CIDR that contains just one"
    )]
    SeveralAddresses {
        /// The migration network, or the node's name.
        network: String,
        /// Every address that was considered, with interface, and why it lost if it did.
        seen: String,
    },
    /// The node's name cannot be resolved.
    #[error("cannot resolve the node's name '{name}': {cause}")]
    Resolve {
        /// The name.
        name: String,
        /// What the resolver says.
        cause: String,
    },
    /// The kernel did not list its addresses.
    #[error("cannot list the addresses of this node: {cause}")]
    Addresses {
        /// The step and what the kernel says.
        cause: String,
    },
    /// A signal arrived first: the caller's handler has to run.
    #[error("asking the kernel for addresses or routes was interrupted by a signal")]
    Interrupted,
    /// No route leads there, or one that refuses.
    #[error("no route to {address}: {cause}; check that its network is up on this node")]
    NoRoute {
        /// The address.
        address: IpAddr,
        /// What the kernel says.
        cause: String,
    },
    /// The kernel did not say which way it would send.
    #[error("cannot find out the route to {address}: {cause}")]
    Route {
        /// The address.
        address: IpAddr,
        /// The step and what the kernel says.
        cause: String,
    },
    /// The address is no single address of an interface.
    #[error("cannot listen on {address}: it is {kind}, an exact address is needed")]
    NotExact {
        /// The address.
        address: IpAddr,
        /// What it is.
        kind: &'static str,
    },
    /// All ports of the range are taken.
    #[error(
        "all ports from {first} to {last} on {address} are in use: wait for other migrations to end, or look what listens there"
    )]
    PortsExhausted {
        /// The address.
        address: IpAddr,
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
    },
    /// Listening failed for another reason than a port in use.
    #[error("cannot listen on {address}, port {port}: {cause}")]
    Bind {
        /// The address.
        address: IpAddr,
        /// The port that was tried.
        port: u16,
        /// What the kernel says.
        cause: String,
    },
}
