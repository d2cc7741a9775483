//! A port of the migration range, bound and listening.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;

use socket2::{Domain, Protocol, Socket, Type};

use super::NetworkError;

/// The ports PVE uses for migration: 60000 up to and excluding 60050.
pub const PORTS: RangeInclusive<u16> = 60000..=60049;

/// Connections waiting to be accepted: multifd and NBD open a few each.
const BACKLOG: i32 = 128;

/// A listening socket and its port.
#[derive(Debug)]
pub struct BoundPort {
    /// Listening, blocking, close-on-exec.
    pub listener: TcpListener,
    /// Its port.
    pub port: u16,
}

/// Binds the first free port of [`PORTS`] on exactly this address and family, and listens at once,
/// so that nobody else can take it between choosing and using.
///
/// # Errors
/// An unspecified or multicast address, or one of the other family in disguise; all ports in use;
/// any other failure at once, since the next port would not do better (an address this node does
/// not have, no permission).
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
    Err(NetworkError::PortsExhausted {
        address,
        first: *PORTS.start(),
        last: *PORTS.end(),
    })
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
    // Connections of the last migration that linger in TIME_WAIT do not make a port unusable. Two
    // that bind the same port with this option are told apart by listen: the second gets EADDRINUSE
    // there.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
