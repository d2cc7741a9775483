//! Binding a port of the migration range.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;

use socket2::{Domain, Protocol, Socket, Type};

use super::{NetworkError, Reservations};

/// The ports that PVE uses for migration.
pub const PORTS: RangeInclusive<u16> = 60000..=60049;

/// Connections that may wait to be accepted. Multifd and NBD open a few each.
const BACKLOG: i32 = 128;

/// A listening socket and its port.
#[derive(Debug)]
pub struct BoundPort {
    /// Listening, blocking, close-on-exec.
    pub listener: TcpListener,
    /// In host byte order, one of [`PORTS`].
    pub port: u16,
}

/// Listening sockets with one port.
#[derive(Debug)]
pub struct BoundAddresses {
    /// One for each address, in their order: listening, blocking, close-on-exec.
    pub listeners: Vec<TcpListener>,
    /// In host byte order, one of [`PORTS`].
    pub port: u16,
}

/// Binds the first free port of [`PORTS`] on exactly this address and family, and listens on it
/// immediately, so that no other process can take the port between the choice and its use. A port
/// that Proxmox VE has reserved on this node does not count as free, see [`Reservations`].
///
/// # Errors
/// [`NetworkError::NotExact`] for an unspecified or multicast address, or an IPv4 address written
/// as IPv6; [`NetworkError::PortsExhausted`]; [`NetworkError::PortLock`]; [`NetworkError::Bind`] for
/// any other failure, without a try of the next port, which would fail in the same way (this node
/// does not have the address, or the process lacks a permission).
pub fn bind_port(address: IpAddr) -> Result<BoundPort, NetworkError> {
    let mut bound = bind_port_on(&[address], &Reservations::of_this_node())?;
    match bound.listeners.pop() {
        Some(listener) => Ok(BoundPort {
            listener,
            port: bound.port,
        }),
        None => Err(exhausted(&[address], 0)),
    }
}

/// As [`bind_port`], with one port for several addresses: the first that is free on all of them.
///
/// # Errors
/// As for [`bind_port`].
pub fn bind_port_on(
    addresses: &[IpAddr],
    reservations: &Reservations,
) -> Result<BoundAddresses, NetworkError> {
    for &address in addresses {
        let inexact = match address {
            _ if address.is_unspecified() => Some("the unspecified address"),
            _ if address.is_multicast() => Some("a multicast address"),
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                Some("an IPv4 address written as IPv6")
            }
            _ => None,
        };
        if let Some(kind) = inexact {
            return Err(NetworkError::NotExact { address, kind });
        }
    }
    let reserved = reservations.lock()?;
    let mut skipped = 0;
    for port in PORTS {
        if reserved.contains(port) {
            skipped += 1;
            continue;
        }
        if let Some(listeners) = listen_on(addresses, port)? {
            return Ok(BoundAddresses { listeners, port });
        }
    }
    Err(exhausted(addresses, skipped))
}

fn exhausted(addresses: &[IpAddr], reserved: usize) -> NetworkError {
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    NetworkError::PortsExhausted {
        address: addresses.join(" and "),
        reserved: match reserved {
            0 => String::new(),
            reserved => format!(" (Proxmox VE has reserved {reserved} of them for some seconds)"),
        },
    }
}

/// Listens on this port of each address; none if the port is in use on one of them.
fn listen_on(addresses: &[IpAddr], port: u16) -> Result<Option<Vec<TcpListener>>, NetworkError> {
    let mut listeners = Vec::new();
    for &address in addresses {
        match listen(SocketAddr::new(address, port)) {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(None),
            Err(error) => {
                return Err(NetworkError::Bind {
                    address,
                    port,
                    cause: error.to_string(),
                });
            }
        }
    }
    Ok(Some(listeners))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A connection of an earlier migration in TIME_WAIT must not block the port. With this option
    // two processes may bind the same port; `listen` then fails with EADDRINUSE in the second one.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
