//! Binding a port of the migration range.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;

use socket2::{Domain, Protocol, Socket, Type};

use super::NetworkError;

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

/// Binds the first free port of [`PORTS`] on exactly this address and family, and listens on it
/// immediately, so that no other process can take the port between the choice and its use.
///
/// # Errors
/// [`NetworkError::NotExact`] for an unspecified or multicast address, or an IPv4 address written
/// as IPv6; [`NetworkError::PortsExhausted`]; [`NetworkError::Bind`] for any other failure, without
/// a try of the next port, which would fail in the same way (this node does not have the address,
/// or the process lacks a permission).
pub fn bind_port(address: IpAddr) -> Result<BoundPort, NetworkError> {
    let inexact = match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address written as IPv6"),
        _ => None,
    };
    if let Some(kind) = inexact {
        return Err(NetworkError::NotExact { address, kind });
    }
    for port in PORTS {
        match listen(SocketAddr::new(address, port)) {
            Ok(listener) => return Ok(BoundPort { listener, port }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(NetworkError::Bind {
                    address,
                    port,
                    cause: error.to_string(),
                });
            }
        }
    }
    Err(NetworkError::PortsExhausted { address })
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
