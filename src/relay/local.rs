//! A local UNIX stream socket whose orderly end can be distinguished from its truncation.
//!
//! Closing a UNIX socket looks like a clean end of stream to the other side, whatever happened
//! before, with one exception: if unread data is queued at the side that closes, the other side
//! gets `ECONNRESET`. So a [`Local`] always leaves the last byte that it has read in the kernel's
//! queue. It removes that byte only together with the next ones, or when the stream has ended well. In
//! every other case, even after SIGKILL, the kernel reports an error to a peer that has written data.

use super::{Layout, Pieces};
use crate::system::readiness::{GONE, HUNG_UP, is_ready, unread};
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};
use nix::sys::socket::{MsgFlags, Shutdown, recv, setsockopt, shutdown};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Flags of all splices: without waiting, and moving pages instead of copying them where possible.
pub(super) const FLAGS: SpliceFFlags =
    SpliceFFlags::SPLICE_F_NONBLOCK.union(SpliceFFlags::SPLICE_F_MOVE);

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
    /// [`read_small`](Self::read_small) found, and returns how many. The last one stays in the queue for
    /// the next time, as the end of stream requires.
    pub(super) async fn splice_to(&self, pipe: impl AsFd, fresh: usize) -> io::Result<usize> {
        self.forget_kept()?;
        let splice = || Ok(splice(&self.stream, None, &pipe, None, fresh - 1, FLAGS)?);
        self.stream.async_io(Interest::READABLE, splice).await
    }

    /// Moves up to `count` bytes out of a pipe that holds them, and returns how many.
    pub(super) async fn splice_from(&self, pipe: impl AsFd, count: usize) -> io::Result<usize> {
        let splice = || Ok(splice(&pipe, None, &self.stream, None, count, FLAGS)?);
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
    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.try_write_vectored(slices)
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
                self.stream.try_read_vectored(&mut slices[..count])?
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{AsRawFd, Local};
    use socket2::{MsgHdr, SockRef};
    use std::io::{ErrorKind, IoSlice, Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream as Peer;
    use tokio::net::UnixStream;

    fn pair() -> (Peer, Local) {
        let (ours, theirs) = Peer::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (theirs, Local::new(UnixStream::from_std(ours).unwrap()))
    }

    async fn read_all(local: &Local, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = vec![0; step];
        loop {
            let count = local.read(&mut buffer).await.unwrap();
            if count == 0 {
                return all;
            }
            all.extend_from_slice(&buffer[..count]);
        }
    }

    #[tokio::test]
    async fn reads_everything_in_any_step_until_the_half_close() {
        let data: Vec<u8> = (0..70_000u32).map(|i| (i % 251) as u8).collect();
        for step in [1, 2, 3, 4096, 131_072] {
            let (mut peer, local) = pair();
            let sent = data.clone();
            let writer = std::thread::spawn(move || {
                peer.write_all(&sent).unwrap();
                peer.shutdown(Shutdown::Write).unwrap();
                peer
            });
            assert_eq!(read_all(&local, step).await, data, "step {step}");
            local.write_all(b"answer").await.unwrap();
            local.close();
            drop(local);
            let mut answer = Vec::new();
            writer.join().unwrap().read_to_end(&mut answer).unwrap();
            assert_eq!(answer, b"answer", "step {step}");
        }
    }

    #[tokio::test]
    async fn data_written_before_a_close_is_read_even_with_an_unread_answer() {
        let (mut peer, local) = pair();
        local.write_all(b"this stays unread").await.unwrap();
        peer.write_all(b"last data").unwrap();
        drop(peer);
        assert_eq!(read_all(&local, 4).await, b"last data");
    }

    #[tokio::test]
    async fn dropping_it_resets_a_peer_that_has_written() {
        let (mut peer, local) = pair();
        peer.write_all(b"request").unwrap();
        assert_eq!(local.read(&mut [0; 16]).await.unwrap(), 7);
        local.write_all(b"part of an answer").await.unwrap();
        drop(local);
        let mut answer = Vec::new();
        let error = peer.read_to_end(&mut answer).unwrap_err();
        assert_eq!(answer, b"part of an answer");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn failing_keeps_a_silent_peer_from_an_end_of_stream() {
        let (mut peer, local) = pair();
        local.write_all(b"truncated").await.unwrap();
        let failing = tokio::spawn(async move { local.fail().await });
        peer.set_nonblocking(true).unwrap();
        let mut part = [0; 9];
        peer.read_exact(&mut part).unwrap();
        tokio::task::yield_now().await;
        assert_eq!(
            peer.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        peer.write_all(b"x").unwrap();
        failing.await.unwrap();
        assert_eq!(
            peer.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
    }

    #[tokio::test]
    async fn failing_keeps_a_reader_that_will_write_nothing_from_an_end_of_stream() {
        let (mut peer, local) = pair();
        peer.shutdown(Shutdown::Write).unwrap();
        local.write_all(b"truncated").await.unwrap();
        let failing = tokio::spawn(async move { local.fail().await });
        let mut part = [0; 9];
        peer.read_exact(&mut part).unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!failing.is_finished());
        peer.set_nonblocking(true).unwrap();
        assert_eq!(
            peer.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        drop(peer);
        failing.await.unwrap();
    }

    #[tokio::test]
    async fn closing_with_unread_data_is_never_an_orderly_end() {
        for _ in 0..500 {
            let (mut peer, local) = pair();
            peer.write_all(b"unread").unwrap();
            let reader = std::thread::spawn(move || peer.read(&mut [0]));
            local.close();
            drop(local);
            let error = reader.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn passed_descriptors_are_dropped_and_all_bytes_are_kept() {
        let (peer, local) = pair();
        let data: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        for piece in data.chunks(7) {
            // A cmsghdr (man 3 cmsg): its length, its level and type, one descriptor, padding.
            let mut control = [0; 24];
            control[..8].copy_from_slice(&20_u64.to_ne_bytes());
            control[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
            control[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
            control[16..20].copy_from_slice(&peer.as_raw_fd().to_ne_bytes());
            let buffers = [IoSlice::new(piece)];
            let message = MsgHdr::new().with_buffers(&buffers).with_control(&control);
            SockRef::from(&peer).sendmsg(&message, 0).unwrap();
        }
        peer.shutdown(Shutdown::Write).unwrap();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        assert_eq!(read_all(&local, 100).await, data);
        // Other tests of this process may open some descriptors at the same time.
        assert!(open() < before + 100);
    }

    #[tokio::test]
    async fn any_interleaving_of_writes_and_reads_keeps_every_byte() {
        for seed in 1..200_u32 {
            let mut state = seed;
            let mut random = |bound: u32| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 16) % bound
            };
            let (mut peer, local) = pair();
            let (mut written, mut read) = (0_usize, 0_usize);
            while written < 3000 {
                for _ in 0..random(3) {
                    let piece: Vec<u8> = (0..1 + random(40) as usize)
                        .map(|i| ((written + i) % 251) as u8)
                        .collect();
                    peer.write_all(&piece).unwrap();
                    written += piece.len();
                }
                while read < written && random(3) > 0 {
                    let mut buffer = vec![0; 1 + random(30) as usize];
                    let count = local.read(&mut buffer).await.unwrap();
                    assert!(count > 0, "seed {seed}");
                    for byte in &buffer[..count] {
                        assert_eq!(usize::from(*byte), read % 251, "seed {seed}");
                        read += 1;
                    }
                }
            }
            if random(2) == 0 {
                peer.shutdown(Shutdown::Write).unwrap();
            } else {
                drop(peer);
            }
            assert_eq!(read_all(&local, 17).await.len(), written - read);
        }
    }
}
