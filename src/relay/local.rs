//! A local UNIX stream socket whose orderly end can be distinguished from its truncation.
//!
//! Closing a UNIX socket looks like a clean end of stream to the other side, whatever happened
//! before, with one exception: if unread data is queued at the side that closes, the other side
//! gets `ECONNRESET`. So a [`Local`] always leaves the last byte that it has read in the kernel's
//! queue. It removes that byte only together with the next ones, or when the stream has ended well. In
//! every other case, even after SIGKILL, the kernel reports an error to a peer that has written data.

use super::pipe::{FLAGS, Pipe, SMALL};
use super::{Layout, Pieces};
use crate::system::readiness::{GONE, HUNG_UP, is_ready, register, unread};
use nix::fcntl::splice;
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};
use nix::sys::socket::{MsgFlags, Shutdown, recv, setsockopt, shutdown};
use nix::sys::uio::{readv, writev};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// Requested send buffer, in bytes. The kernel doubles it for its own bookkeeping, to the size of one
/// pipe. The default is a fifth of that, and a non-blocking writer then has to be woken several times
/// for one pipe. Only root may exceed `net.core.wmem_max`, which equals the default.
const QUEUE: usize = 512 << 10;

/// One accepted connection. One task may read while another one writes.
#[derive(Debug)]
pub struct Local {
    stream: UnixStream,
    /// Whether the first byte in the kernel's queue was already returned to the caller.
    kept: AtomicBool,
    /// Whether the peer was sent its end of stream.
    ended: AtomicBool,
}

/// The registration of a socket for a task that reads it: with the runtime of the task, as soon as it has
/// to wait.
#[derive(Debug, Default)]
pub(super) struct Registration(Option<AsyncFd<OwnedFd>>);

impl Registration {
    /// None if the system refuses it.
    fn of(&mut self, stream: &UnixStream) -> Option<&AsyncFd<OwnedFd>> {
        if self.0.is_none() {
            // A descriptor can be registered once.
            let own = stream.as_fd().try_clone_to_owned().ok()?;
            self.0 = register(own, Interest::READABLE).ok();
        }
        self.0.as_ref()
    }

    /// Ends it: the task is woken by no event any more.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }
}

/// How a task learns that the socket is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// From the runtime that the socket is registered with, which knows it without a call of the kernel
    /// and detects when it changes.
    Registered,
    /// From the kernel, each time: the thread of that runtime may have no time for events.
    Asked,
}

/// What [`Local::read_small`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Bytes that were read, all that were queued; zero as for [`Local::read`].
    Read(usize),
    /// Bytes that are queued, more than fit into the buffer. Nothing was read.
    Large(usize),
}

impl Local {
    /// Wraps a connection.
    pub fn new(stream: UnixStream) -> Self {
        // A failure only costs more wake-ups.
        let _ = setsockopt(&stream, SndBufForce, &QUEUE)
            .or_else(|_| setsockopt(&stream, SndBuf, &QUEUE));
        Self {
            stream,
            kept: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// Waits for data and reads as much as fits into `buffer`. Zero when the peer has shut down its
    /// writing side, or is gone, and everything that it wrote was read.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let layout = Layout::plain(buffer.len());
        self.read_around(buffer, layout).await
    }

    /// The same for a buffer with space for framing. Returns the number of payload bytes.
    pub(super) async fn read_around(&self, buffer: &mut [u8], layout: Layout) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            let take = || self.take(self.fresh()?, buffer, layout);
            match self.stream.try_io(Interest::READABLE, take) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// As [`read`](Self::read), for a task that shares the socket with tasks of other threads, and waits for
    /// data by a registration of its own. If it returns a pipe, the bytes were moved into it. `pipe` gives an
    /// empty one; it is called if more than [`SMALL`] bytes are queued.
    pub(super) async fn read_or_move<P: AsRef<Pipe>>(
        &self,
        registration: &mut Registration,
        buffer: &mut [u8],
        mut pipe: impl FnMut() -> Option<P>,
    ) -> io::Result<(usize, Option<P>)> {
        let layout = Layout::plain(buffer.len());
        let mut read = || -> io::Result<_> {
            let fresh = self.fresh()?;
            if let Some(pipe) = (fresh > SMALL).then(&mut pipe).flatten() {
                let moved = self.move_to(&pipe.as_ref().entry, fresh.min(layout.capacity() + 1));
                // Whatever prevents it, reading goes on.
                if let Ok(count @ 1..) = moved {
                    return Ok((count, Some(pipe)));
                }
            }
            Ok((self.take(fresh, buffer, layout)?, None))
        };
        match read() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
        match registration.of(&self.stream) {
            Some(own) => own.async_io(Interest::READABLE, |_| read()).await,
            None => self.stream.async_io(Interest::READABLE, read).await,
        }
    }

    /// Waits for data and reads it, unless more is queued than fits into `buffer`.
    pub(super) async fn read_small(&self, buffer: &mut [u8]) -> io::Result<Next> {
        let look = || match self.fresh()? {
            large if large > buffer.len() => Ok(Next::Large(large)),
            small => {
                let layout = Layout::plain(buffer.len());
                self.take(small, buffer, layout).map(Next::Read)
            }
        };
        self.stream.async_io(Interest::READABLE, look).await
    }

    /// Moves queued bytes into an empty pipe, at most all but one of the `fresh` ones that
    /// [`read_small`](Self::read_small) found, and returns how many.
    pub(super) async fn splice_to(&self, pipe: impl AsFd, fresh: usize) -> io::Result<usize> {
        let splice = || self.move_to(&pipe, fresh);
        self.stream.async_io(Interest::READABLE, splice).await
    }

    /// Moves up to `count` bytes out of a pipe that holds them, and returns how many.
    pub(super) async fn splice_from(&self, pipe: impl AsFd, count: usize) -> io::Result<usize> {
        let splice = || self.move_from(&pipe, count);
        self.stream.async_io(Interest::WRITABLE, splice).await
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_pieces(Pieces::One(bytes)).await
    }

    /// Writes all bytes of these pieces.
    pub(super) async fn write_pieces(&self, pieces: Pieces<'_>) -> io::Result<()> {
        let whole = pieces.bytes();
        let mut written = 0;
        while written < whole {
            self.stream.writable().await?;
            let (slices, count) = pieces.after(written);
            match self.stream.try_write_vectored(&slices[..count]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes as much as the kernel accepts without waiting, `WouldBlock` if that is nothing.
    pub(super) fn try_write(
        &self,
        slices: &[IoSlice<'_>],
        readiness: Readiness,
    ) -> io::Result<usize> {
        self.attempt(readiness, || Ok(writev(&self.stream, slices)?))
    }

    /// The same for up to `count` bytes that a pipe holds, which are moved.
    pub(super) fn try_splice_from(
        &self,
        pipe: impl AsFd,
        count: usize,
        readiness: Readiness,
    ) -> io::Result<usize> {
        self.attempt(readiness, || self.move_from(pipe, count))
    }

    /// Moves all but one of `fresh` queued bytes into a pipe, as far as it has room for them. The last one
    /// stays in the queue for the next time, as the end of stream requires.
    fn move_to(&self, pipe: impl AsFd, fresh: usize) -> io::Result<usize> {
        self.forget_kept()?;
        Ok(splice(&self.stream, None, pipe, None, fresh - 1, FLAGS)?)
    }

    fn move_from(&self, pipe: impl AsFd, count: usize) -> io::Result<usize> {
        Ok(splice(pipe, None, &self.stream, None, count, FLAGS)?)
    }

    fn attempt<T>(
        &self,
        readiness: Readiness,
        attempt: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match readiness {
            Readiness::Registered => self.stream.try_io(Interest::WRITABLE, attempt),
            Readiness::Asked => attempt(),
        }
    }

    /// Waits until the kernel may accept data, or reports an error for it.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.stream.writable().await
    }

    /// Ends one direction well: the peer reads everything that was written to it and then an end of
    /// stream, and can continue to write.
    ///
    /// A later failure can only be reported to the peer as an error of its own writing.
    pub fn finish(&self) {
        self.ended.store(true, Ordering::Relaxed);
        // Fails only if the peer is gone.
        let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Write);
    }

    /// Whether the peer has closed its socket or shut down both directions, which cannot be
    /// distinguished.
    pub(crate) fn is_gone(&self) -> bool {
        is_ready(&self.stream, GONE).unwrap_or(true)
    }

    /// Whether the peer closed its socket with unread data. To be called once, after
    /// [`read`](Self::read) has returned zero: the kernel reports it only once.
    pub(super) fn left_unread(&self) -> bool {
        // The kernel reports the hang-up before it records the error, but does both under the lock that
        // this call takes.
        let _ = self.stream.peer_addr();
        self.stream
            .take_error()
            .map_or(true, |error| error.is_some())
    }

    /// From now on, dropping this value ends well: the peer reads everything that was written to it and
    /// then an end of stream.
    ///
    /// If the queue still holds data of the peer, that data is lost, and the peer gets `ECONNRESET`.
    pub fn close(&self) {
        // Fails only if there is no such byte.
        let _ = self.forget_kept();
        // No shutdown before the descriptor closes: a waiting peer would see a clean end before the
        // kernel checks for unread data. `finish` is for streams whose end does not depend on the other
        // direction.
    }

    /// Waits until dropping this value ends badly: the peer gets `ECONNRESET` after everything that was
    /// written to it.
    ///
    /// The kernel cannot report an error to a peer that has never written anything. Such a peer waits,
    /// without the end of stream that it would take for success, until it writes or closes.
    pub async fn fail(&self) {
        loop {
            // Checked before waiting: an event that was already reported is not reported again.
            if self.error_can_be_reported() {
                return;
            }
            // A peer that has shut down its writing side can only close, which shows on this end's
            // writing side. The reading side stays ready and would wake this task without end.
            let interest = if self.hung_up() {
                Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            if self.stream.ready(interest).await.is_err() {
                return;
            }
            // A spurious wake-up: clear the readiness and wait for the next one.
            let _ = self
                .stream
                .try_io(interest, || match self.error_can_be_reported() {
                    true => Ok(()),
                    false => Err(io::ErrorKind::WouldBlock.into()),
                });
        }
    }

    /// Whether a close reaches the peer as an error, or the peer is gone.
    fn error_can_be_reported(&self) -> bool {
        unread(&self.stream).map_or(true, |count| count > 0)
            || self.is_gone()
            || self.ended.load(Ordering::Relaxed)
    }

    /// How many queued bytes were not returned yet; zero at the end of the stream, `WouldBlock` before
    /// it.
    fn fresh(&self) -> io::Result<usize> {
        let kept = usize::from(self.kept.load(Ordering::Relaxed));
        let mut queued = unread(&self.stream)?;
        if queued <= kept {
            if !self.hung_up() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // Data that arrived between the two checks is the last.
            queued = unread(&self.stream)?;
        }
        Ok(queued.saturating_sub(kept))
    }

    /// Removes the byte from the queue that was returned and kept, if there is one.
    fn forget_kept(&self) -> io::Result<()> {
        if self.kept.load(Ordering::Relaxed) {
            recv(self.stream.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT)?;
            self.kept.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads as many of the `fresh` queued bytes as fit into `buffer`, and keeps the last one of them in
    /// the queue.
    fn take(&self, fresh: usize, buffer: &mut [u8], layout: Layout) -> io::Result<usize> {
        let Some(last) = fresh.min(layout.capacity()).checked_sub(1) else {
            return Ok(0);
        };
        let fd = self.stream.as_raw_fd();
        self.forget_kept()?;
        let read = match last {
            0 => 0,
            _ => {
                let (mut slices, count) = layout.slices(buffer, last);
                readv(&self.stream, &mut slices[..count])?
            }
        };
        let place = layout.place(read);
        let peeked = recv(
            fd,
            &mut buffer[place..=place],
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK,
        )?;
        self.kept.store(peeked == 1, Ordering::Relaxed);
        Ok(read + peeked)
    }

    /// Whether the peer has shut down its writing side or closed.
    fn hung_up(&self) -> bool {
        is_ready(&self.stream, HUNG_UP).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests;
