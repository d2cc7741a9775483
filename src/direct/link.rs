//! A direct connection on its way from the hello to its end.

use super::hello::{self, HelloError, Refusal};
use super::wire::split;
use super::{SessionKey, fate::Fate};
use crate::relay::{self, Counters, Local, RelayError, relay, splice};
use crate::tls::Wire;
use std::io;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

/// How long saying goodbye may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Anything that bytes flow through both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection of one of the two planes.
pub(crate) enum Link {
    /// TLS 1.3.
    Tls(Box<TlsStream<Wire>>),
    /// Clear TCP, armed: should this process die, the other end gets a reset and no end of stream.
    Tcp(TcpStream),
}

/// Why a connection that had been let in did not end well.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    /// The streams themselves.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The node at the other end.
    #[error("{0}")]
    Dead(String),
}

impl Link {
    /// Clear TCP.
    pub(crate) fn clear(stream: TcpStream) -> io::Result<Self> {
        relay::arm(&stream)?;
        Ok(Self::Tcp(stream))
    }

    fn stream(&mut self) -> &mut dyn Stream {
        match self {
            Self::Tls(stream) => stream,
            Self::Tcp(stream) => stream,
        }
    }

    /// As [`hello::challenge`].
    pub(crate) async fn challenge(&mut self, key: &SessionKey) -> Result<u32, Refusal> {
        hello::challenge(&mut self.stream(), key).await
    }

    /// As [`hello::answer`].
    pub(crate) async fn answer(&mut self, status: u8) -> io::Result<()> {
        hello::answer(&mut self.stream(), status).await
    }

    /// As [`hello::respond`].
    pub(crate) async fn respond(
        &mut self,
        key: &SessionKey,
        number: u32,
    ) -> Result<(), HelloError> {
        hello::respond(&mut self.stream(), key, number).await
    }

    /// As a plain stream, for the watch.
    pub(crate) fn into_stream(self) -> Box<dyn Stream> {
        match self {
            Self::Tls(stream) => stream,
            Self::Tcp(stream) => Box::new(stream),
        }
    }

    /// Lets the other end read what was written to it, then closes the connection.
    pub(crate) async fn part(self) {
        match self {
            Self::Tls(mut stream) => {
                let _ = timeout(FAREWELL, stream.shutdown()).await;
            }
            Self::Tcp(stream) => {
                let _ = relay::disarm(&stream);
            }
        }
    }

    /// Relays until both directions have ended, or the other node is found dead. The caller ends
    /// the local socket as the result says.
    pub(crate) async fn carry(
        self,
        local: &Local,
        counters: &Counters,
        fate: &Fate,
    ) -> Result<(), LinkError> {
        let copied = async {
            match self {
                Self::Tls(stream) => {
                    let (outgoing, incoming) = split(*stream);
                    relay(local, outgoing, incoming, counters).await
                }
                Self::Tcp(stream) => splice(local, &stream, counters).await,
            }
        };
        tokio::select! {
            result = copied => Ok(result?),
            reason = fate.sealed() => Err(LinkError::Dead(reason)),
        }
    }
}
