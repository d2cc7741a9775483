//! A TCP connection with a read buffer for TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The largest size of the buffer, in bytes: eight full records. rustls itself never reads more than
/// one record at once, and that in several steps.
const MAX: usize = 128 << 10;

/// Its first size, in bytes: enough for a TLS handshake.
const FIRST: usize = 4 << 10;

/// The connection. Its buffer is allocated for the first bytes, and doubled after each read that has
/// filled it, so that unfinished handshakes and the heartbeat stay small.
pub(crate) struct BufferedTcp<S = TcpStream> {
    stream: S,
    buffer: Vec<u8>,
    /// The bytes that were read and not yet taken.
    start: usize,
    end: usize,
}

/// Adds the read buffer to a connection, before the TLS handshake.
pub(crate) fn buffered<S>(stream: S) -> BufferedTcp<S> {
    BufferedTcp {
        stream,
        buffer: Vec::new(),
        start: 0,
        end: 0,
    }
}

impl<S> BufferedTcp<S> {
    /// The connection without its buffer.
    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BufferedTcp<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.start == this.end {
            // Everything was taken, so the buffer holds nothing that has to be kept.
            if this.end == this.buffer.len() && this.end < MAX {
                this.buffer = vec![0; (2 * this.end).clamp(FIRST, MAX)];
            }
            (this.start, this.end) = (0, 0);
            let mut fresh = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut fresh))?;
            this.end = fresh.filled().len();
        }
        let count = out.remaining().min(this.end - this.start);
        out.put_slice(&this.buffer[this.start..this.start + count]);
        this.start += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BufferedTcp<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn bytes_arrive_in_order_whatever_the_sizes_of_reads_are() {
        for size in [1, 5, 1000, FIRST, MAX, 3 * MAX] {
            let (mut near, far) = duplex(5000);
            let mut far = buffered(far);
            let length = 3 * MAX + 17;
            let sent: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let write = async {
                near.write_all(&sent).await.unwrap();
                drop(near);
            };
            let read = async {
                let (mut received, mut piece) = (Vec::<u8>::new(), vec![0; size]);
                loop {
                    match far.read(&mut piece).await.unwrap() {
                        0 => return received,
                        count => received.extend(&piece[..count]),
                    }
                }
            };
            let ((), received) = tokio::join!(write, read);
            assert!(received == sent, "{size}: {} bytes", received.len());
        }
    }

    #[tokio::test]
    async fn the_buffer_grows_with_the_traffic_up_to_its_limit() {
        let (mut near, far) = duplex(4 * MAX);
        let mut far = buffered(far);
        assert_eq!(far.buffer.len(), 0);
        // Small messages, one after the other.
        for _ in 0..100 {
            near.write_all(&[7; 100]).await.unwrap();
            far.read_exact(&mut [0; 100]).await.unwrap();
        }
        assert_eq!(far.buffer.len(), FIRST);
        near.write_all(&[7; 4 * MAX]).await.unwrap();
        far.read_exact(&mut [0; 4 * MAX]).await.unwrap();
        assert_eq!(far.buffer.len(), MAX);
    }
}
