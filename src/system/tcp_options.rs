//! Socket options that change how TCP sends: buffers and congestion control (socket(7), tcp(7)).

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use socket2::SockRef;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The sizes of a socket's buffers in bytes, as the kernel counts them: with its own bookkeeping. A
/// buffer holds about this amount of data in large segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BufferSizes {
    pub(crate) send: usize,
    pub(crate) receive: usize,
}

impl BufferSizes {
    /// The sizes of this socket.
    pub(crate) fn of(socket: impl AsFd) -> io::Result<Self> {
        let socket = SockRef::from(&socket);
        Ok(Self {
            send: socket.send_buffer_size()?,
            receive: socket.recv_buffer_size()?,
        })
    }
}

/// Sets the size of the send buffer, and how much of it may wait to be sent for the first time. The
/// kernel then no longer adapts the size.
///
/// Without the second limit, a program could write the whole buffer ahead of a slow network path. QEMU
/// counts what it has written as transferred when it computes the downtime.
///
/// Above `net.core.wmem_max` it requires `CAP_NET_ADMIN`, which is always used: otherwise `EPERM`.
pub(crate) fn force_send_buffer(
    socket: impl AsFd,
    bytes: usize,
    unsent_limit: u32,
) -> io::Result<()> {
    // The kernel doubles the requested size.
    setsockopt(&socket, SndBufForce, &(bytes / 2))?;
    limit_unsent(socket, unsent_limit)
}

/// Sets how much data may wait in the send buffer without having been sent, in bytes.
pub(crate) fn limit_unsent(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_notsent_lowat(bytes)
}

/// Sets the size of the receive buffer, with the same privilege, and the largest window to half of it:
/// the kernel adapts neither of them any more. The other half is for its own bookkeeping, which small
/// segments need.
pub(crate) fn force_receive_buffer(socket: impl AsFd, bytes: usize) -> io::Result<()> {
    setsockopt(&socket, RcvBufForce, &(bytes / 2))?;
    let window = libc::c_int::try_from(bytes / 2).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel reads an int, which is valid for the whole call.
    #[allow(unsafe_code)]
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_WINDOW_CLAMP,
            (&raw const window).cast(),
            size_of_val(&window) as libc::socklen_t,
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// The name of a socket's congestion control.
pub(crate) fn congestion_control(socket: impl AsFd) -> io::Result<String> {
    let name = SockRef::from(&socket).tcp_congestion()?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Selects the congestion control. With `CAP_NET_ADMIN` the kernel loads the module that is needed.
///
/// `ENOENT`: the kernel does not have it. `EPERM`: without that capability, only those of
/// `net.ipv4.tcp_allowed_congestion_control` are permitted.
pub(crate) fn set_congestion_control(socket: impl AsFd, name: &str) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_congestion(name.as_bytes())
}

/// The size up to which the kernel grows a receive buffer by itself (`net.ipv4.tcp_rmem`), in this
/// thread's network namespace. None if the kernel does not report it.
pub(crate) fn receive_buffer_limit() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").ok()?;
    text.split_whitespace().nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    fn connection() -> (TcpStream, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (stream, listener)
    }

    #[test]
    fn forced_sizes_are_those_that_the_kernel_reports() {
        const SIZE: usize = 16 << 20;
        let (stream, _listener) = connection();
        match force_send_buffer(&stream, SIZE, 4 << 20) {
            Ok(()) => {}
            // Users other than root.
            Err(error) => return assert_eq!(error.kind(), ErrorKind::PermissionDenied),
        }
        force_receive_buffer(&stream, 2 * SIZE).unwrap();
        let expected = BufferSizes {
            send: SIZE,
            receive: 2 * SIZE,
        };
        assert_eq!(BufferSizes::of(&stream).unwrap(), expected);
        let unsent = SockRef::from(&stream).tcp_notsent_lowat().unwrap();
        assert_eq!(unsent, 4 << 20);
    }

    #[test]
    fn every_kernel_has_reno_and_none_has_an_unknown_congestion_control() {
        let (stream, _listener) = connection();
        set_congestion_control(&stream, "reno").unwrap();
        assert_eq!(congestion_control(&stream).unwrap(), "reno");
        let error = set_congestion_control(&stream, "none-of-them").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(congestion_control(&stream).unwrap(), "reno");
    }

    #[test]
    fn the_kernels_own_limit_is_at_least_its_default() {
        assert!(receive_buffer_limit().unwrap() >= 128 << 10);
    }
}
