//! A wire in memory, blocking for some and asynchronous for others.

use super::Reads;
use std::cell::RefCell;
use std::hint::black_box;
use std::io::{self, IoSlice, Read, Write};
use std::iter::Cycle;
use std::pin::Pin;
use std::rc::Rc;
use std::slice::Iter;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Hands out the same bytes again and again; drops what is written, or keeps it.
#[derive(Clone)]
pub struct Wire {
    image: Vec<u8>,
    at: usize,
    pieces: Cycle<Iter<'static, usize>>,
    left: usize,
    kept: Option<Rc<RefCell<Vec<u8>>>>,
}

impl Wire {
    pub fn new(image: Vec<u8>, reads: Reads) -> Self {
        Self {
            image,
            at: 0,
            pieces: reads.pieces.iter().cycle(),
            left: 0,
            kept: None,
        }
    }

    /// One that is only written to.
    pub fn sink() -> Self {
        Self::new(Vec::new(), Reads::LARGE)
    }

    /// The same, and everything that will be written to it.
    pub fn kept() -> (Self, Rc<RefCell<Vec<u8>>>) {
        let kept = Rc::default();
        let wire = Self {
            kept: Some(Rc::clone(&kept)),
            ..Self::sink()
        };
        (wire, kept)
    }

    /// The next piece, or as much of it as there is room for.
    fn deliver(&mut self, room: usize) -> &[u8] {
        if self.left == 0 {
            self.left = self.pieces.next().copied().unwrap_or_default();
        }
        let start = self.at;
        let count = room.min(self.left).min(self.image.len() - start);
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

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.deliver(buffer.len());
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.accept(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context,
        buffer: &mut ReadBuf,
    ) -> Poll<io::Result<()>> {
        buffer.put_slice(self.deliver(buffer.remaining()));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
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
