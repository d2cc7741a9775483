//! A connection without framing of its own as the two halves of a lane.

use crate::relay::{Incoming, Outgoing, Pieces, Received};
use std::future::pending;
use std::io::{self, IoSlice};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes that are read or written at once.
const BUFFER: usize = 128 << 10;

/// The half that sends.
pub(super) struct PlainOutgoing<W> {
    write: W,
    /// Whether the end of this direction leaves the other one open. If not, the peer ends both.
    half_close: bool,
}

impl<W> PlainOutgoing<W> {
    pub(super) fn new(write: W) -> Self {
        Self {
            write,
            half_close: true,
        }
    }

    /// The half of a connection that has no half-close.
    pub(super) fn without_half_close(write: W) -> Self {
        Self {
            write,
            half_close: false,
        }
    }
}

impl<W: AsyncWrite + Unpin + Send> Outgoing for PlainOutgoing<W> {
    const ROOM: usize = 0;
    const MAX: usize = BUFFER;

    async fn send(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.write.write_all(buffer).await
    }

    async fn send_from(
        &mut self,
        header: &[u8],
        payload: &[u8],
        _: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut slices = [header, payload].map(IoSlice::new);
        let mut rest = &mut slices[..];
        while rest.iter().any(|slice| !slice.is_empty()) {
            match self.write.write_vectored(rest).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => IoSlice::advance_slices(&mut rest, count),
            }
        }
        Ok(())
    }

    async fn control_pending(&mut self) {
        pending().await
    }

    async fn send_control(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn finish(&mut self) -> io::Result<()> {
        match self.half_close {
            true => self.write.shutdown().await,
            false => Ok(()),
        }
    }
}

/// The half that receives. `HALF_CLOSE`: as [`Incoming::HALF_CLOSE`].
pub(super) struct PlainIncoming<R, const HALF_CLOSE: bool> {
    read: R,
    buffer: Vec<u8>,
}

impl<R, const HALF_CLOSE: bool> PlainIncoming<R, HALF_CLOSE> {
    pub(super) fn new(read: R) -> Self {
        Self {
            read,
            buffer: vec![0; BUFFER],
        }
    }
}

impl<R: AsyncRead + Unpin + Send, const HALF_CLOSE: bool> Incoming
    for PlainIncoming<R, HALF_CLOSE>
{
    const HALF_CLOSE: bool = HALF_CLOSE;

    async fn next(&mut self) -> io::Result<Received<'_>> {
        match self.read.read(&mut self.buffer).await? {
            0 => Ok(Received::End),
            count => Ok(Received::Data(Pieces::One(&self.buffer[..count]))),
        }
    }
}
