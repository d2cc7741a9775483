//! A direct connection from its handshake to its end.

use super::handshake::{self, HandshakeError, HandshakeRefusal};
use super::tls_halves::split;
use super::{SessionKey, peer_liveness::PeerLiveness};
use crate::relay::{self, ByteStream, Counters, Local, RelayError, relay, splice};
use crate::tls::{BufferedTcp, TlsStream};
use std::io;
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time limit for an orderly close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection of one of the two direct planes.
pub(crate) enum Link {
    /// TLS 1.3.
    Tls(Box<TlsStream<BufferedTcp>>),
    /// Clear TCP that is reset when it is closed: if this process dies, the peer gets a reset and
    /// not an end of stream.
    Tcp(TcpStream),
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
        }
    }

    /// As [`handshake::challenge`].
    pub(crate) async fn challenge(&mut self, key: &SessionKey) -> Result<u32, HandshakeRefusal> {
        handshake::challenge(&mut self.stream(), key).await
    }

    /// As [`handshake::send_status`].
    pub(crate) async fn send_status(&mut self, status: u8) -> io::Result<()> {
        handshake::send_status(&mut self.stream(), status).await
    }

    /// As [`handshake::respond`].
    pub(crate) async fn respond(
        &mut self,
        key: &SessionKey,
        number: u32,
    ) -> Result<(), HandshakeError> {
        handshake::respond(&mut self.stream(), key, number).await
    }

    /// The plain stream, for the heartbeat.
    pub(crate) fn into_stream(self) -> Box<dyn ByteStream> {
        match self {
            Self::Tls(stream) => stream,
            Self::Tcp(stream) => Box::new(stream),
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
        }
    }

    /// Relays until both directions have ended or the other node is dead. The caller ends the local
    /// socket according to the result.
    pub(crate) async fn relay(
        self,
        local: &Local,
        counters: &Counters,
        liveness: &PeerLiveness,
    ) -> Result<(), LinkError> {
        let relayed = async {
            match self {
                Self::Tls(stream) => {
                    let (outgoing, incoming) = split(*stream);
                    relay(local, outgoing, incoming, counters).await
                }
                Self::Tcp(stream) => splice(local, &stream, counters).await,
            }
        };
        tokio::select! {
            result = relayed => Ok(result?),
            reason = liveness.died() => Err(LinkError::Dead(reason)),
        }
    }
}
