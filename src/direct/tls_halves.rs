//! A TLS stream as the two halves of a relay.

use crate::relay::{Incoming, Outgoing, Received};
use std::future::pending;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

/// Bytes that are read or written at once: eight full TLS records.
const CHUNK: usize = 128 * 1024;

/// Splits a TLS stream after its handshake.
pub(crate) fn split<S: AsyncRead + AsyncWrite>(stream: S) -> (TlsOutgoing<S>, TlsIncoming<S>) {
    let (read, write) = tokio::io::split(stream);
    let buffer = vec![0; CHUNK];
    (TlsOutgoing { write }, TlsIncoming { read, buffer })
}

/// The half that sends.
pub(crate) struct TlsOutgoing<S> {
    write: WriteHalf<S>,
}

impl<S: AsyncRead + AsyncWrite + Send> Outgoing for TlsOutgoing<S> {
    const ROOM: usize = 0;
    const MAX: usize = CHUNK;

    async fn send(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.write.write_all(buffer).await?;
        self.write.flush().await
    }

    async fn control_pending(&mut self) {
        pending().await
    }

    async fn send_control(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Sends close_notify, then FIN; the other direction stays open.
    async fn finish(&mut self) -> io::Result<()> {
        self.write.shutdown().await
    }
}

/// The half that receives.
pub(crate) struct TlsIncoming<S> {
    read: ReadHalf<S>,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Send> Incoming for TlsIncoming<S> {
    const HALF_CLOSE: bool = true;

    async fn next(&mut self) -> io::Result<Received<'_>> {
        match self.read.read(&mut self.buffer).await {
            Ok(0) => Ok(Received::End),
            Ok(count) => Ok(Received::Data(&self.buffer[..count])),
            // rustls reports an end without close_notify in this way.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Received::Stopped),
            Err(error) => Err(error),
        }
    }
}
