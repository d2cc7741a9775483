//! A stream in memory, for blocking and for asynchronous readers and writers.

use pve_tunnel::websocket::MAX_FRAME;
use std::cell::RefCell;
use std::hint::black_box;
use std::io::{self, IoSlice, Read, Write};
use std::iter::Cycle;
use std::pin::Pin;
use std::rc::Rc;
use std::slice::Iter;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The sizes of reads.
///
/// Reads cost nothing here, which favours small ones: their data stays in the first-level cache. A
/// read from a socket is a system call, so an expert configures large reads.
#[derive(Clone, Copy)]
pub struct Reads {
    /// What successive reads deliver, in bytes.
    pieces: &'static [usize],
    /// What a contender should request at a time, in bytes.
    pub most: usize,
}

impl Reads {
    /// From a socket: all data that has arrived, which is usually much.
    pub const LARGE: Self = Self {
        pieces: &[1, 4095, 131_073, 70_000, 3],
        most: MAX_FRAME,
    };

    /// From TLS: at most one record.
    pub const TLS: Self = Self {
        pieces: &[1, 4095, 16_384, 16_384, 16_384, 16_384, 3],
        most: 16 << 10,
    };
}

/// Delivers the same bytes again and again. Drops or keeps what is written.
#[derive(Clone)]
pub struct Stream {
    image: Vec<u8>,
    at: usize,
    pieces: Cycle<Iter<'static, usize>>,
    /// What is left of the current piece.
    left: usize,
    kept: Option<Rc<RefCell<Vec<u8>>>>,
}

impl Stream {
    pub fn new(image: Vec<u8>, reads: Reads) -> Self {
        Self {
            image,
            at: 0,
            pieces: reads.pieces.iter().cycle(),
            left: 0,
            kept: None,
        }
    }

    /// A stream that is only written to.
    pub fn sink() -> Self {
        Self::new(Vec::new(), Reads::LARGE)
    }

    /// The same. The second value is everything that is written to it.
    pub fn kept() -> (Self, Rc<RefCell<Vec<u8>>>) {
        let kept = Rc::default();
        let stream = Self {
            kept: Some(Rc::clone(&kept)),
            ..Self::sink()
        };
        (stream, kept)
    }

    /// The next piece, or its first `most` bytes.
    fn deliver(&mut self, most: usize) -> &[u8] {
        if self.left == 0 {
            self.left = self.pieces.next().copied().unwrap_or_default();
        }
        let start = self.at;
        let count = most.min(self.left).min(self.image.len() - start);
        self.at = (start + count) % self.image.len();
        self.left -= count;
        &self.image[start..start + count]
    }

    fn accept(&mut self, bytes: &[u8]) -> usize {
        if let Some(kept) = &self.kept {
            kept.borrow_mut().extend_from_slice(bytes);
        }
        black_box(bytes).len()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.deliver(buffer.len());
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.accept(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context,
        buffer: &mut ReadBuf,
    ) -> Poll<io::Result<()>> {
        buffer.put_slice(self.deliver(buffer.remaining()));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(self.accept(bytes)))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context,
        parts: &[IoSlice],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(parts.iter().map(|part| self.accept(part)).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
