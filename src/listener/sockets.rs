//! The sockets at which a listener accepts connections, and what arrives there.

use super::{ListenerError, Options};
use crate::network::{self, Reservations, Scope, SystemLookup};
use crate::plane::Plane;
use crate::system::socket_path::SocketPath;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// A socket that listens.
pub(super) enum ListeningSocket {
    /// For the source itself.
    Tcp(TcpListener),
    /// For the API, behind which the source is.
    Unix(UnixListener),
}

/// A connection that was accepted.
pub(super) enum Arrival {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Where a connection comes from: an address, or the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer(Option<SocketAddr>);

impl ListeningSocket {
    /// The socket of lanes through the API, and its path.
    pub(super) fn at_path(path: &Path, owner: Option<u32>) -> io::Result<(Self, SocketPath)> {
        let (listener, path) = SocketPath::listen(path, owner)?;
        Ok((Self::Unix(UnixListener::from_std(listener)?), path))
    }

    pub(super) async fn accept(&self) -> io::Result<(Arrival, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Arrival::Tcp(stream), Peer(Some(address))))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Arrival::Unix(stream), Peer(None)))
            }
        }
    }
}

impl Peer {
    /// None for the API.
    pub(super) fn address(self) -> Option<IpAddr> {
        self.0.map(|address| address.ip())
    }

    /// What its connections are counted by.
    pub(super) fn origin(self) -> IpAddr {
        self.address().unwrap_or(Ipv4Addr::UNSPECIFIED.into())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(formatter),
            None => formatter.write_str("the API"),
        }
    }
}

/// The TCP sockets of a direct plane: one port on all of these addresses.
pub(super) struct Bound {
    pub(super) sockets: Vec<ListeningSocket>,
    pub(super) port: u16,
}

/// Binds one port on all of the addresses.
pub(super) fn bind(addresses: &[IpAddr]) -> Result<Bound, ListenerError> {
    let bound = network::bind_port_on(addresses, &Reservations::of_this_node())?;
    let sockets = bound
        .listeners
        .into_iter()
        .map(|listener| {
            listener.set_nonblocking(true)?;
            Ok(ListeningSocket::Tcp(TcpListener::from_std(listener)?))
        })
        .collect::<io::Result<_>>()
        .map_err(ListenerError::Start)?;
    Ok(Bound {
        sockets,
        port: bound.port,
    })
}

/// The addresses to listen on, one of each family. Clear text is not received on a publicly routable
/// one, unless that is allowed.
pub(super) fn addresses(options: &Options) -> Result<Vec<IpAddr>, ListenerError> {
    let network = options.network.as_deref();
    let own = network::addresses(network, &options.node, &SystemLookup)?;
    let (permitted, public): (Vec<IpAddr>, Vec<IpAddr>) =
        own.into_iter().map(|own| own.address).partition(|address| {
            options.plane != Plane::Tcp || options.public || Scope::of(*address) != Scope::Global
        });
    match public.first() {
        Some(address) if permitted.is_empty() => Err(ListenerError::Public(*address)),
        _ => Ok(permitted),
    }
}
