//! Readiness of descriptors: asking the kernel for it, and waiting for it.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

/// The other end has shut down its writing side or closed.
pub(crate) const HUNG_UP: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP)
    .union(PollFlags::POLLHUP)
    .union(PollFlags::POLLERR);

/// The other end has closed, or shut down both directions. The kernel always reports these two events,
/// also if they are not requested.
pub(crate) const GONE: PollFlags = PollFlags::POLLHUP.union(PollFlags::POLLERR);

/// Whether a descriptor reports one of `events`, or a hang-up, at this moment.
pub(crate) fn is_ready(fd: impl AsFd, events: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd.as_fd(), events)];
    Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
}

/// Bytes in the receive queue of a socket.
pub(crate) fn unread(fd: impl AsFd) -> io::Result<usize> {
    count(fd, libc::FIONREAD)
}

/// Bytes that were written to a TCP socket and that the peer has not acknowledged. An end of stream
/// counts as one (tcp(7), SIOCOUTQ).
pub(crate) fn unacknowledged(fd: impl AsFd) -> io::Result<usize> {
    count(fd, libc::TIOCOUTQ)
}

fn count(fd: impl AsFd, request: libc::Ioctl) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: both requests write one int through the pointer, which is valid for the whole call.
    #[allow(unsafe_code)]
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, &mut count) };
    Errno::result(result)?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Registers a descriptor with the runtime. Regular files are always ready, and are refused with
/// `EPERM`.
pub(crate) fn register<T: AsFd + AsRawFd>(
    fd: T,
    interest: Interest,
) -> Result<AsyncFd<T>, AsyncFdRegisterError<T>> {
    // SAFETY: every T that is used here (OwnedFd, UnixListener, SignalFd) owns its descriptor and
    // returns the same one as long as it lives.
    #[allow(unsafe_code)]
    unsafe {
        AsyncFd::register_with_interest(fd, interest)
    }
}
