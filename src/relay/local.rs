//! A local UNIX stream socket whose end can be told from its truncation.
//!
//! Closing a UNIX socket looks like a clean end of stream to the other side, whatever happened
//! before, with one exception: if unread data is queued at the side that closes, the other side
//! gets `ECONNRESET`. So a [`Local`] always leaves the last byte that it has read in the kernel's
//! queue, takes it out only together with what follows, or when the stream has ended well. Whatever
//! else happens, even SIGKILL, the kernel then reports an error to a peer that has ever written.

use crate::system::readiness::{GONE, HUNG_UP, is_ready, unread};
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};
use nix::sys::socket::{MsgFlags, Shutdown, recv, setsockopt, shutdown};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// How splices move data: without waiting, and pages rather than copies where that is possible.
pub(super) const FLAGS: SpliceFFlags =
    SpliceFFlags::SPLICE_F_NONBLOCK.union(SpliceFFlags::SPLICE_F_MOVE);

/// How much may wait in the kernel for the local program to read it, in bytes; the kernel doubles it
/// for its own bookkeeping, to what one of our pipes holds. The default is a fifth of that, and a
/// writer that is not to block then has to be woken several times for what it has ready. Only root
/// may go beyond `net.core.wmem_max`, which is the default, too.
const QUEUE: usize = 512 << 10;

/// One accepted connection. Reading and writing may go on at the same time, each from one place.
#[derive(Debug)]
pub struct Local {
    stream: UnixStream,
    /// Whether the first byte in the kernel's queue has been handed out already.
    kept: AtomicBool,
    /// Whether the peer has been given its end of stream.
    ended: AtomicBool,
}

/// What [`Local::read_small`] found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// So many bytes have been read, and no more were there; zero as for [`Local::read`].
    Read(usize),
    /// So many bytes are there, more than the buffer takes. Nothing has been read.
    Large(usize),
}

impl Local {
    /// Takes a connection over.
    pub fn new(stream: UnixStream) -> Self {
        // Without it, everything still works; the kernel only asks for us more often.
        let _ = setsockopt(&stream, SndBufForce, &QUEUE)
            .or_else(|_| setsockopt(&stream, SndBuf, &QUEUE));
        Self {
            stream,
            kept: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// Waits for data and reads what fits into `buffer`; zero when the peer has shut down its
    /// writing side, or is gone, and all it wrote has been read.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            let take = || self.take(self.fresh()?, buffer);
            match self.stream.try_io(Interest::READABLE, take) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }

    /// Waits for data and reads it, unless there is more of it than `buffer` takes.
    pub(super) async fn read_small(&self, buffer: &mut [u8]) -> io::Result<Next> {
        let look = || match self.fresh()? {
            large if large > buffer.len() => Ok(Next::Large(large)),
            small => self.take(small, buffer).map(Next::Read),
        };
        self.stream.async_io(Interest::READABLE, look).await
    }

    /// Moves bytes that are there into an empty pipe, at most all but one of the `fresh` ones that
    /// [`read_small`](Self::read_small) found; how many. The one is left for the next time: a queue
    /// that is never empty costs nothing here.
    pub(super) async fn splice_to(&self, pipe: impl AsFd, fresh: usize) -> io::Result<usize> {
        self.forget_kept()?;
        let splice = || Ok(splice(&self.stream, None, &pipe, None, fresh - 1, FLAGS)?);
        self.stream.async_io(Interest::READABLE, splice).await
    }

    /// Moves up to `count` bytes out of a pipe that holds them; how many.
    pub(super) async fn splice_from(&self, pipe: impl AsFd, count: usize) -> io::Result<usize> {
        let splice = || Ok(splice(&pipe, None, &self.stream, None, count, FLAGS)?);
        self.stream.async_io(Interest::WRITABLE, splice).await
    }

    /// Writes all of `bytes`.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends one direction well: the peer reads an end of stream after everything that was written to
    /// it, and can go on writing.
    ///
    /// From then on the peer can only be told of a failure by what becomes of its own writing.
    pub fn finish(&self) {
        self.ended.store(true, Ordering::Relaxed);
        // Only fails if there is no peer any more that could be told.
        let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Write);
    }

    /// Whether the peer neither writes nor reads any more: it has closed its socket, or shut down
    /// both of its directions, which looks the same from here.
    pub(super) fn is_gone(&self) -> bool {
        is_ready(&self.stream, GONE).unwrap_or(true)
    }

    /// Whether the peer closed its socket over data that it had not read. To be asked after
    /// [`read`](Self::read) has found the end, once: the kernel tells it no second time.
    pub(super) fn left_unread(&self) -> bool {
        // The kernel shows the hang-up before it notes the error, but both under the lock that this
        // call takes.
        let _ = self.stream.peer_addr();
        self.stream
            .take_error()
            .map_or(true, |error| error.is_some())
    }

    /// Ends well: the peer reads an end of stream after everything that was written to it.
    ///
    /// Data that the peer wrote and nobody read stays in the queue: then it was lost, and the peer
    /// gets `ECONNRESET`.
    pub fn close(self) {
        // Only fails if the byte is not there, and then there is nothing to take out.
        let _ = self.forget_kept();
        // No shutdown before the descriptor closes: a waiting peer would wake to a clean end before
        // the kernel looks whether anything is left unread. `finish` is for streams that have ended
        // whatever becomes of the other direction.
    }

    /// Ends badly: the peer gets `ECONNRESET` after everything that was written to it.
    ///
    /// A peer that has never written anything cannot be told by the kernel. It is kept waiting,
    /// without the end of stream that it would take for success, until it writes or goes away.
    pub async fn fail(self) {
        loop {
            // Looked at before anything is waited for: what has come already wakes nobody again.
            if self.can_be_told() {
                return;
            }
            // A peer that will write nothing more can only go away, which shows on the writing side;
            // the reading side is ready for good and would wake us without end.
            let interest = if self.hung_up() {
                Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            if self.stream.ready(interest).await.is_err() {
                return;
            }
            // Nothing there after all: forget this readiness and wait for the next.
            let _ = self.stream.try_io(interest, || match self.can_be_told() {
                true => Ok(()),
                false => Err(io::ErrorKind::WouldBlock.into()),
            });
        }
    }

    /// Whether closing reaches the peer as an error, or there is no peer any more.
    fn can_be_told(&self) -> bool {
        unread(&self.stream).map_or(true, |count| count > 0)
            || self.is_gone()
            || self.ended.load(Ordering::Relaxed)
    }

    /// How many bytes in the queue have not been handed out: zero at the end of the stream,
    /// `WouldBlock` before it.
    fn fresh(&self) -> io::Result<usize> {
        let kept = usize::from(self.kept.load(Ordering::Relaxed));
        let mut queued = unread(&self.stream)?;
        if queued <= kept {
            if !self.hung_up() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // What came between the two looks is all that will ever come.
            queued = unread(&self.stream)?;
        }
        Ok(queued.saturating_sub(kept))
    }

    /// Takes the byte out of the queue that was handed out and kept, if there is one.
    fn forget_kept(&self) -> io::Result<()> {
        if self.kept.load(Ordering::Relaxed) {
            recv(self.stream.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT)?;
            self.kept.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads of the `fresh` bytes in the queue what fits into `buffer`, and leaves the last one that
    /// it has read there.
    fn take(&self, fresh: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(last) = fresh.min(buffer.len()).checked_sub(1) else {
            return Ok(0);
        };
        let fd = self.stream.as_raw_fd();
        self.forget_kept()?;
        let read = match last {
            0 => 0,
            _ => recv(fd, &mut buffer[..last], MsgFlags::MSG_DONTWAIT)?,
        };
        let peeked = recv(
            fd,
            &mut buffer[read..=read],
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK,
        )?;
        self.kept.store(peeked == 1, Ordering::Relaxed);
        Ok(read + peeked)
    }

    /// Whether the peer will write nothing more.
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
            let mut answer = Vec::new();
            writer.join().unwrap().read_to_end(&mut answer).unwrap();
            assert_eq!(answer, b"answer", "step {step}");
        }
    }

    #[tokio::test]
    async fn what_a_peer_wrote_before_it_closed_is_read_even_with_an_answer_unread() {
        let (mut peer, local) = pair();
        local.write_all(b"nobody reads this").await.unwrap();
        peer.write_all(b"last words").unwrap();
        drop(peer);
        assert_eq!(read_all(&local, 4).await, b"last words");
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
        let failing = tokio::spawn(local.fail());
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
        let failing = tokio::spawn(local.fail());
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
    async fn closing_over_unread_data_is_never_seen_as_an_end() {
        for _ in 0..500 {
            let (mut peer, local) = pair();
            peer.write_all(b"unread").unwrap();
            let reader = std::thread::spawn(move || peer.read(&mut [0]));
            local.close();
            let error = reader.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn descriptors_that_come_along_are_dropped_and_the_bytes_around_them_are_not() {
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
        // Other tests of this process open some of their own meanwhile, but not so many.
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
