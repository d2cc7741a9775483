//! Lines from and to a descriptor of any kind: pipe, socket, terminal, file.
//!
//! Other processes may share these descriptors, so they stay in blocking mode. Before each read and
//! write the kernel is asked whether it would block, and a write is at most as long as a pipe accepts
//! at once.

use super::MAX_LINE;
use crate::system::readiness::{is_ready, register};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::unistd::{read, write};
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, MutexGuard};
use zeroize::{Zeroize, Zeroizing};

/// Bytes that a pipe accepts without blocking if it polls writable (POSIX `PIPE_BUF` on Linux).
const PIPE_BUF: usize = 4096;

/// Bytes that are read at once.
const READ: usize = 8192;

/// A descriptor with readiness events, or a regular file, which is always ready and which epoll refuses.
#[derive(Debug)]
enum Descriptor {
    Polled(AsyncFd<OwnedFd>),
    AlwaysReady(OwnedFd),
}

impl Descriptor {
    fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        match register(fd, interest) {
            Ok(fd) => Ok(Self::Polled(fd)),
            Err(error) => {
                let (fd, cause) = error.into_parts();
                match cause.raw_os_error() {
                    Some(libc::EPERM) => Ok(Self::AlwaysReady(fd)),
                    _ => Err(cause),
                }
            }
        }
    }

    /// Runs `operation` once the descriptor polls ready for it.
    async fn when_ready<T>(
        &self,
        interest: Interest,
        mut operation: impl FnMut(BorrowedFd<'_>) -> nix::Result<T>,
    ) -> io::Result<T> {
        let fd = match self {
            Self::Polled(fd) => fd,
            Self::AlwaysReady(fd) => return Ok(operation(fd.as_fd())?),
        };
        let event = if interest.is_readable() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLOUT
        };
        loop {
            let mut guard = fd.ready(interest).await?;
            let result = guard.try_io(|fd| {
                if !is_ready(fd, event)? {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(operation(fd.as_fd())?)
            });
            match result {
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::EINTR as i32) => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

/// Lines from a descriptor.
#[derive(Debug)]
pub(crate) struct Input {
    fd: Descriptor,
    lines: Lines,
    /// A line that was read and not returned.
    next: Option<Line>,
    ended: bool,
}

/// What was read from a descriptor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line, without its end.
    Whole(Vec<u8>),
    /// A line above the limit. It was skipped.
    TooLong,
}

impl Input {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let fd = Descriptor::new(fd, Interest::READABLE)?;
        Ok(Self {
            fd,
            lines: Lines::default(),
            next: None,
            ended: false,
        })
    }

    /// The next line; none at the end of input. A last line without a newline is dropped: its writer died
    /// while writing it.
    pub(crate) async fn line(&mut self) -> io::Result<Option<Line>> {
        self.fill().await?;
        Ok(self.next.take())
    }

    /// Waits until the input has ended and every line was returned. Never returns if another line
    /// follows, or if the input cannot be read: [`line`](Self::line) returns both.
    pub(crate) async fn end(&mut self) {
        match self.fill().await {
            Ok(()) if self.next.is_none() => {}
            _ => pending().await,
        }
    }

    /// Reads until there is a line or the input has ended. Nothing is lost if this is cancelled.
    async fn fill(&mut self) -> io::Result<()> {
        loop {
            if self.next.is_none() {
                self.next = self.lines.next();
            }
            if self.next.is_some() || self.ended {
                return Ok(());
            }
            let lines = &mut self.lines;
            let count = self
                .fd
                .when_ready(Interest::READABLE, |fd| lines.read(fd))
                .await?;
            self.ended = count == 0;
        }
    }
}

/// Lines to a descriptor, one writer at a time.
#[derive(Debug)]
pub(crate) struct Output {
    fd: Mutex<Descriptor>,
}

impl Output {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            fd: Mutex::new(Descriptor::new(fd, Interest::WRITABLE)?),
        })
    }

    /// Waits for exclusive access. It is granted in the order of the requests.
    pub(crate) async fn lock(&self) -> Writer<'_> {
        Writer {
            fd: self.fd.lock().await,
        }
    }
}

/// Exclusive access to an [`Output`].
pub(crate) struct Writer<'a> {
    fd: MutexGuard<'a, Descriptor>,
}

impl Writer<'_> {
    /// Writes one line and a newline.
    pub(crate) async fn line(&mut self, line: &[u8]) -> io::Result<()> {
        // The line may hold a key.
        let mut bytes = Zeroizing::new(Vec::with_capacity(line.len() + 1));
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let piece = &rest[..rest.len().min(PIPE_BUF)];
            let count = self
                .fd
                .when_ready(Interest::WRITABLE, |fd| write(fd, piece))
                .await?;
            rest = &rest[count..];
        }
        Ok(())
    }
}

/// Splits a byte stream into lines of at most [`MAX_LINE`] bytes. Lines may hold secrets: the buffer
/// keeps none that was returned.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Where the search for its end continues.
    searched: usize,
    /// The incomplete line is above the limit.
    skipping: bool,
}

impl Lines {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Adds what one call of read(2) returns, and returns the number of bytes. It reads into the
    /// buffer itself: a copy on the stack would not be wiped.
    fn read(&mut self, fd: BorrowedFd<'_>) -> nix::Result<usize> {
        let before = self.buffer.len();
        self.buffer.resize(before + READ, 0);
        let result = read(fd, &mut self.buffer[before..]);
        self.buffer.truncate(before + result.unwrap_or(0));
        result
    }

    /// Whether the incomplete line is above the limit.
    pub(crate) fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// The next line of the bytes so far.
    pub(crate) fn next(&mut self) -> Option<Line> {
        let found = self.buffer[self.searched..]
            .iter()
            .position(|&byte| byte == b'\n');
        let Some(end) = found.map(|end| self.searched + end) else {
            // Returned lines are removed only here, and not one by one.
            let rest = self.buffer.len() - self.start;
            self.skipping |= rest > MAX_LINE;
            let kept = if rest > MAX_LINE { 0 } else { rest };
            self.buffer.copy_within(self.start..self.start + kept, 0);
            self.buffer[kept..].zeroize();
            self.buffer.truncate(kept);
            self.start = 0;
            self.searched = self.buffer.len();
            return None;
        };
        let line = &self.buffer[self.start..end];
        self.start = end + 1;
        self.searched = self.start;
        if std::mem::take(&mut self.skipping) || line.len() > MAX_LINE {
            return Some(Line::TooLong);
        }
        Some(Line::Whole(line.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Line, Lines, MAX_LINE};

    #[test]
    fn lines_are_found_in_any_pieces() {
        let mut lines = Lines::default();
        for byte in b"one\n\nthree\nfo" {
            lines.push(&[*byte]);
        }
        assert_eq!(lines.next(), Some(Line::Whole(b"one".to_vec())));
        assert_eq!(lines.next(), Some(Line::Whole(Vec::new())));
        assert_eq!(lines.next(), Some(Line::Whole(b"three".to_vec())));
        assert_eq!(lines.next(), None);
        lines.push(b"ur\n");
        assert_eq!(lines.next(), Some(Line::Whole(b"four".to_vec())));
    }

    #[test]
    fn an_overlong_line_is_skipped_in_bounded_memory() {
        let mut lines = Lines::default();
        for _ in 0..64 {
            lines.push(&[b'x'; MAX_LINE / 16]);
            assert_eq!(lines.next(), None);
            assert!(lines.buffer.len() <= 2 * MAX_LINE);
        }
        lines.push(b"\nnext\n");
        assert_eq!(lines.next(), Some(Line::TooLong));
        assert_eq!(lines.next(), Some(Line::Whole(b"next".to_vec())));
    }
}
