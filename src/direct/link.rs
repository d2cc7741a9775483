//! A direct connection from its handshake to its end.

use super::acknowledgement::{self, mtu_advice, return_mtu_advice};
use super::handshake::{self, HandshakeError, HandshakeRefusal, Purpose};
use super::path_probe::{self, Outcome, PROBE_TIMEOUT, ProbeError};
use super::plain_halves::{PlainIncoming, PlainOutgoing};
use super::tls_halves;
use super::{SessionKey, peer_liveness::PeerLiveness};
use crate::relay::{
    self, ByteStream, Counters, LaneError, Local, RelayError, Stream, Way, relay, splice,
};
use crate::system::readiness::unacknowledged;
use crate::tls::TlsStream;
use crate::tuning::Monitor;
use socket2::SockRef;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Time limit for an orderly close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The part of the dead-peer limit after which a lane whose data is not acknowledged has failed.
const LOST_LANE: u32 = 4;

/// A connection between connector and listener.
pub(crate) enum Link {
    /// TLS 1.3.
    Tls(Box<TlsStream<TcpStream>>),
    /// Clear TCP that is reset when it is closed: if this process dies, the peer gets a reset and
    /// not an end of stream.
    Tcp(TcpStream),
    /// A UNIX socket behind which a websocket through the target's API continues. It has no half-close:
    /// pveproxy ends a websocket whose one end has ended.
    Websocket(UnixStream, WebsocketEnd),
}

/// The end of a websocket between connector and listener.
#[derive(Debug)]
pub(crate) enum WebsocketEnd {
    /// The source leaves the end of the websocket to the target: pveproxy would answer it in the target's
    /// place.
    Source {
        /// The TCP connection to pveproxy, to observe it.
        socket: OwnedFd,
        /// The task between the UNIX socket and this connection. It waits for the end of both.
        carrier: AbortHandle,
    },
    /// Where pveproxy has connected to the listener's socket.
    Target,
}

/// Why an accepted connection did not end well.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    /// The relay failed.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The node at the other end is dead.
    #[error("{0}")]
    Dead(String),
    /// The network path does not deliver what is sent on this connection.
    #[error("{0}")]
    Undelivered(String),
    /// The lanes of the stream have failed, and nothing was transferred since.
    #[error("the stream's connections have failed, and nothing was transferred for {0:?} since")]
    NoProgress(Duration),
    /// The kernel provides no descriptor.
    #[error("cannot observe the connection: {0}")]
    Descriptor(io::Error),
}

impl Link {
    /// A link over clear TCP.
    pub(crate) fn clear(stream: TcpStream) -> io::Result<Self> {
        relay::reset_on_close(&stream)?;
        Ok(Self::Tcp(stream))
    }

    fn stream(&mut self) -> &mut dyn ByteStream {
        match self {
            Self::Tls(stream) => stream,
            Self::Tcp(stream) => stream,
            Self::Websocket(stream, _) => stream,
        }
    }

    /// A second descriptor of the socket on the network path, to observe it while the stream is in use.
    /// The target's end of a websocket has none; nothing is observed at its UNIX socket.
    fn socket(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tls(stream) => stream.get_ref().as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
            Self::Websocket(_, WebsocketEnd::Source { socket, .. }) => socket.as_fd(),
            Self::Websocket(stream, WebsocketEnd::Target) => stream.as_fd(),
        }
        .try_clone_to_owned()
    }

    /// The task behind it that has to be ended if the connection fails.
    fn carrier(&self) -> Option<AbortHandle> {
        match self {
            Self::Websocket(_, WebsocketEnd::Source { carrier, .. }) => Some(carrier.clone()),
            _ => None,
        }
    }

    /// Checks that the network path of a direct plane delivers packets of full size, both ways if the
    /// listener `echoes` the heartbeat. For the source's end of the heartbeat.
    pub(crate) async fn probe(&mut self, echoes: bool) -> Result<(), ProbeError> {
        let socket = self.socket()?;
        let limit = PROBE_TIMEOUT;
        let pending = || unacknowledged(&socket);
        let outcome = path_probe::run(self.stream(), pending, echoes, limit).await;
        if !matches!(outcome, Ok(Outcome::Complete)) {
            abandon(&socket);
        }
        match outcome? {
            Outcome::Complete => Ok(()),
            Outcome::Unacknowledged => Err(ProbeError::Outgoing {
                limit,
                advice: mtu_advice(&socket),
            }),
            Outcome::Unanswered => Err(ProbeError::Incoming {
                limit,
                advice: return_mtu_advice(&socket),
            }),
        }
    }

    /// As [`handshake::challenge`].
    pub(crate) async fn challenge(
        &mut self,
        key: &SessionKey,
        protocol: u16,
    ) -> Result<Purpose, HandshakeRefusal> {
        handshake::challenge(&mut self.stream(), key, protocol).await
    }

    /// As [`handshake::send_status`].
    pub(crate) async fn send_status(&mut self, status: u8) -> io::Result<()> {
        handshake::send_status(&mut self.stream(), status).await
    }

    /// As [`handshake::respond`].
    pub(crate) async fn respond(
        &mut self,
        key: &SessionKey,
        purpose: Purpose,
        protocol: u16,
    ) -> Result<(), HandshakeError> {
        handshake::respond(&mut self.stream(), key, purpose, protocol).await
    }

    /// The plain stream, for the heartbeat.
    pub(crate) fn into_stream(self) -> Box<dyn ByteStream> {
        match self {
            Self::Tls(stream) => stream,
            Self::Tcp(stream) => Box::new(stream),
            Self::Websocket(stream, _) => Box::new(stream),
        }
    }

    /// Closes the connection after the peer has been sent everything that was written.
    pub(crate) async fn close(self) {
        match self {
            Self::Tls(mut stream) => {
                let _ = timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
            }
            Self::Tcp(stream) => {
                let _ = relay::finish_on_close(&stream);
            }
            Self::Websocket(..) => {}
        }
    }

    /// Relays until both directions have ended, the other node is dead, or the network path has not
    /// delivered sent data for the dead-peer limit. The caller ends the local socket according to the
    /// result.
    pub(crate) async fn relay(
        self,
        local: &Local,
        counters: &Counters,
        liveness: &PeerLiveness,
        monitor: Monitor<'_>,
    ) -> Result<(), LinkError> {
        let socket = self.socket().map_err(LinkError::Descriptor)?;
        let relayed = async {
            match self {
                Self::Tls(stream) => {
                    let (outgoing, incoming) = tls_halves::split(*stream);
                    relay(local, outgoing, incoming, counters).await
                }
                Self::Tcp(stream) => splice(local, &stream, counters).await,
                Self::Websocket(stream, end) => {
                    let (outgoing, incoming) = websocket_halves(stream, end);
                    relay(local, outgoing, incoming, counters).await
                }
            }
        };
        tokio::select! {
            result = relayed => Ok(result?),
            reason = liveness.died() => Err(LinkError::Dead(reason)),
            cause = acknowledgement::lost(&socket, liveness.dead_peer_timeout(), monitor) => {
                abandon(&socket);
                Err(LinkError::Undelivered(cause))
            }
        }
    }
}

impl Link {
    /// Serves a lane of a stream until it ends. Returns the reason if that is a failure.
    pub(crate) async fn serve_lane(
        self,
        stream: &Stream,
        liveness: &PeerLiveness,
        monitor: Monitor<'_>,
    ) -> Result<(), String> {
        let socket = self.socket().map_err(|error| error.to_string())?;
        let carrier = self.carrier();
        // Earlier than the stream would fail, so that other lanes can send what this one has lost.
        let limit = liveness.dead_peer_timeout() / LOST_LANE;
        let direct = Way::Direct(socket.as_fd());
        let served = async {
            match self {
                Self::Tls(connection) => {
                    let (outgoing, incoming) = tls_halves::split(*connection);
                    stream.serve(outgoing, incoming, direct).await
                }
                Self::Tcp(connection) => {
                    let (read, write) = connection.into_split();
                    let (outgoing, incoming) = (
                        PlainOutgoing::new(write),
                        PlainIncoming::<_, true>::new(read),
                    );
                    let result = stream.serve(outgoing, incoming, direct).await;
                    if result.is_ok() {
                        relay::finish_on_close(&socket).map_err(LaneError::Send)?;
                    }
                    result
                }
                Self::Websocket(connection, end) => {
                    let (outgoing, incoming) = websocket_halves(connection, end);
                    stream.serve(outgoing, incoming, Way::Proxied(limit)).await
                }
            }
        };
        let lanes = || stream.lanes();
        let result = tokio::select! {
            result = served => result.map_err(|error| error.to_string()),
            cause = acknowledgement::lost(&socket, limit, monitor.of_lane(&lanes)) => Err(cause),
        };
        if result.is_err() {
            abandon(&socket);
            if let Some(carrier) = carrier {
                carrier.abort();
            }
        }
        result
    }

    /// Removes the connection from the runtime of the calling thread.
    pub(crate) fn detach(self) -> io::Result<DetachedLink> {
        Ok(match self {
            Self::Tls(stream) => DetachedLink::Tls(Box::new(stream.try_map(TcpStream::into_std)?)),
            Self::Tcp(stream) => DetachedLink::Tcp(stream.into_std()?),
            Self::Websocket(stream, end) => DetachedLink::Websocket(stream.into_std()?, end),
        })
    }
}

/// A link that no runtime drives.
pub(crate) enum DetachedLink {
    Tls(Box<TlsStream<std::net::TcpStream>>),
    Tcp(std::net::TcpStream),
    Websocket(std::os::unix::net::UnixStream, WebsocketEnd),
}

impl DetachedLink {
    /// Adds the connection to the runtime of the calling thread.
    pub(crate) fn attach(self) -> io::Result<Link> {
        Ok(match self {
            Self::Tls(stream) => Link::Tls(Box::new(stream.try_map(TcpStream::from_std)?)),
            Self::Tcp(stream) => Link::Tcp(TcpStream::from_std(stream)?),
            Self::Websocket(stream, end) => Link::Websocket(UnixStream::from_std(stream)?, end),
        })
    }
}

fn websocket_halves(
    stream: UnixStream,
    end: WebsocketEnd,
) -> (
    PlainOutgoing<OwnedWriteHalf>,
    PlainIncoming<OwnedReadHalf, false>,
) {
    let (read, write) = stream.into_split();
    let outgoing = match end {
        WebsocketEnd::Source { .. } => PlainOutgoing::without_half_close(write),
        WebsocketEnd::Target => PlainOutgoing::new(write),
    };
    (outgoing, PlainIncoming::new(read))
}

/// Makes the close of a socket discard its data and send RST. Otherwise the kernel would keep the data
/// that it cannot deliver, and the peer would not receive an end.
fn abandon(socket: &OwnedFd) {
    // A socket that is already gone needs nothing.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
