//! The address and port of a migration, and which endpoints of a target are acceptable.
//!
//! * [`Spec`] is a migration network as an operator writes it: a CIDR or an interface name.
//! * [`addresses`] chooses this node's addresses in it, one of each family, by the rules of a
//!   migration inside a cluster; [`address`] chooses the first of them.
//! * [`Lookup`] provides addresses, names and routes. [`SystemLookup`] reads them from the kernel
//!   and the resolver; tests pass a table.
//! * [`bind_port`] binds a port of the migration range, and listens on it; [`bind_port_on`] does so
//!   on several addresses. [`Reservations`] are those of Proxmox VE for its own migrations.
//! * [`endpoint`] checks what a target announces for QEMU's own connections.
//! * [`guard`] checks whether guest data may go to an address in clear text.
//!
//! # Checks before a connection in clear text
//!
//! On the `tcp` plane the connector opens the connection. The announced address goes through
//! [`guard::check`], and the connection is bound to the address and interface of the verdict. If
//! the route changes between check and connection, or during a migration, the connection ends; it
//! does not move to another network.
//!
//! On the `qemu` plane QEMU opens the connections. Each announced endpoint (one for the RAM stream,
//! one for every disk) goes through these steps, in this order:
//!
//! 1. [`endpoint::check`] checks the form, the port range, the export name, and that the address is
//!    inside the network if that is a CIDR. It needs only the text, and returns an
//!    [`endpoint::Endpoint`].
//! 2. [`guard::check`] checks the [`endpoint::Endpoint::address`] of the result, once for each
//!    different address: scope, network, route and source address. It asks the kernel for the
//!    route.
//! 3. QEMU gets the [`endpoint::Endpoint::uri`] of step 1, never the text that the target sent.
//!
//! Both checks are necessary: `endpoint` does not look at routes, and `guard` does not look at
//! ports and exports. Both take the same `network`. If it is an interface name, `endpoint` gets
//! none, because the name has no meaning on the target. A loopback address requires
//! `allow_loopback` in `endpoint` and a network inside the loopback range in `guard`.
//!
//! QEMU does not bind its connections to an address or interface, so the check is valid only for
//! the routes at the time of the check. Run it as late as possible, immediately before QEMU
//! connects.

mod announced;
mod choice;
pub mod endpoint;
pub mod guard;
mod interface;
mod lookup;
mod port;
mod reservations;
mod route;
mod scope;
mod spec;

pub use choice::{address, addresses};
pub use interface::Interface;
pub use lookup::SystemLookup;
pub use port::{BoundAddresses, BoundPort, PORTS, bind_port, bind_port_on};
pub use reservations::Reservations;
pub use route::Route;
pub use scope::Scope;
pub use spec::{MAX_INTERFACE_LEN, Spec};

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An address of this node, as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Name of its interface.
    pub interface: String,
    /// The node's own address. On a point-to-point link this is not the peer's address.
    pub address: IpAddr,
    /// Length of the prefix, in bits.
    pub prefix_len: u8,
    /// Whether the interface is up (`IFF_UP`, which does not require a cable).
    pub up: bool,
    /// An IPv6 privacy address, which changes every few hours.
    pub temporary: bool,
    /// Its preferred lifetime is over: it is valid for existing connections, not for new ones.
    pub deprecated: bool,
    /// IPv6 duplicate detection is still running: the address cannot be bound yet.
    pub tentative: bool,
    /// IPv6 duplicate detection found the address on another host: it must not be used.
    pub duplicate: bool,
}

impl InterfaceAddress {
    /// An address of an interface that is up, without any of the flags.
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

/// A source of addresses, names and routes.
pub trait Lookup {
    /// Every address of this node, including those of interfaces that are down, which errors list.
    ///
    /// # Errors
    /// The addresses cannot be read; [`NetworkError::Interrupted`] if a signal arrived first.
    fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetworkError>;

    /// Every interface of this node, including those without an address.
    ///
    /// # Errors
    /// As for [`Lookup::addresses`].
    fn interfaces(&self) -> Result<Vec<Interface>, NetworkError> {
        Ok(interface::of_addresses(&self.addresses()?))
    }

    /// The addresses of a host name, in the resolver's order.
    ///
    /// # Errors
    /// The name cannot be resolved.
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError>;

    /// The route of a TCP connection to a port of [`PORTS`] at this address, if it were opened now
    /// from a socket that is not bound.
    ///
    /// # Errors
    /// [`NetworkError::NoRoute`] if there is no route, if the route rejects or drops packets
    /// (unreachable, blackhole, prohibit), or if the address is a broadcast address;
    /// [`NetworkError::Route`] if the kernel cannot be asked; [`NetworkError::Interrupted`] if a
    /// signal arrived first.
    fn route(&self, destination: IpAddr) -> Result<Route, NetworkError>;
}

/// This node's address in a migration network.
///
/// As JSON: `{"address":"192.0.2.7","prefix_len":24,"interface":"eth1","uri_host":"192.0.2.7"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// IPv4 or IPv6, never one that needs a zone.
    pub address: IpAddr,
    /// Length of its prefix, in bits.
    pub prefix_len: u8,
    /// The first interface that has it.
    pub interface: String,
    /// The address in the form that URIs require, see [`uri_host`].
    pub uri_host: String,
}

/// An address as the host of a URI: IPv6 is put in brackets (RFC 3986, section 3.2.2).
pub fn uri_host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Why there is no address, no route or no port.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NetworkError {
    /// The migration network is neither a CIDR nor an interface name.
    #[error("migration network '{spec}' {reason}")]
    Spec {
        /// The text, cut if it is long.
        spec: String,
        /// What is wrong with it, as the rest of a sentence.
        reason: String,
    },
    /// No address matches, or none that matches may be used.
    #[error("{network}: no usable address on this node; {found}")]
    NoAddress {
        /// The migration network, or the node's name.
        network: String,
        /// Every address that was considered, with its interface and why it was rejected.
        found: String,
    },
    /// No interface has this name.
    #[error(
        "there is no interface '{name}' on this node (interfaces: {found}), and no network with this ID is configured for this call: correct the name, or name the network as a CIDR"
    )]
    NoInterface {
        /// The requested name.
        name: String,
        /// The names that exist, alternative ones in parentheses.
        found: String,
    },
    /// More than one different address of one family matches.
    #[error(
        "{network}: more than one address of one family on this node; {found}; name a CIDR that contains only one of them"
    )]
    SeveralAddresses {
        /// The migration network, or the node's name.
        network: String,
        /// Every address that was considered, with its interface and, if so, why it was rejected.
        found: String,
    },
    /// The node's name cannot be resolved.
    #[error("cannot resolve the node's name '{name}': {cause}")]
    Resolve {
        /// The name, cut if it is long.
        name: String,
        /// The resolver's error.
        cause: String,
    },
    /// The kernel did not list its addresses.
    #[error("cannot list the addresses of this node: {cause}")]
    Addresses {
        /// The step that failed and the kernel's error.
        cause: String,
    },
    /// A signal arrived first. The call returns, so that the caller's signal handler can run.
    #[error("reading addresses or routes from the kernel was interrupted by a signal")]
    Interrupted,
    /// There is no route to the address, or the route rejects or drops packets.
    #[error("no route to {address}: {cause}; check that its network is up on this node")]
    NoRoute {
        /// The destination.
        address: IpAddr,
        /// The kernel's error, or the type of the route.
        cause: String,
    },
    /// The kernel did not return its route.
    #[error("cannot determine the route to {address}: {cause}")]
    Route {
        /// The destination.
        address: IpAddr,
        /// The step that failed and the kernel's error.
        cause: String,
    },
    /// The address is not a single address of an interface.
    #[error("cannot listen on {address}: it is {kind}; an exact address is required")]
    NotExact {
        /// The requested address.
        address: IpAddr,
        /// What kind of address it is.
        kind: &'static str,
    },
    /// All ports of [`PORTS`] are in use.
    #[error(
        "all ports from {first} to {last} on {address} are in use: wait for other migrations to end, or check which programs use them{reserved}",
        first = PORTS.start(),
        last = PORTS.end()
    )]
    PortsExhausted {
        /// The requested addresses.
        address: String,
        /// How many of the ports Proxmox VE has reserved, in parentheses; or empty.
        reserved: String,
    },
    /// Another process holds the lock of Proxmox VE's reservations, or it cannot be locked.
    #[error("cannot read the ports that Proxmox VE has reserved: lock '{path}': {cause}")]
    PortLock {
        /// Path of the lock.
        path: String,
        /// The kernel's error, or the time limit.
        cause: String,
    },
    /// Listening failed, and not because the port is in use.
    #[error("cannot listen on {address}, port {port}: {cause}")]
    Bind {
        /// The requested address.
        address: IpAddr,
        /// The port that was tried.
        port: u16,
        /// The kernel's error.
        cause: String,
    },
}
