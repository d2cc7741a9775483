//! No TCP socket has a buffer of fixed size: the kernel adapts buffers to the path, but not those
//! that a program has set.
// Access to the descriptors of other processes and one socket option, which no crate in use offers.
#![allow(unsafe_code)]

use socket2::{Protocol, Socket};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use testing::connector::Connector;
use testing::seam::{NegotiatedTunnel, Seam, plane_request};
use testing::stream::exchange_bytes;
use testing::{report_skipped, role};

/// Duplicates of the TCP sockets of a process.
fn tcp_sockets(pid: u32) -> io::Result<Vec<Socket>> {
    let process = owned(
        // SAFETY: the arguments are two integers. The returned descriptor has no other owner.
        unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) },
    )?;
    let mut sockets = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let number: i32 = entry?.file_name().to_str().unwrap().parse().unwrap();
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{number}"))?;
        if link.to_str().unwrap().starts_with("socket:") {
            // SAFETY: the arguments are three integers. The returned descriptor has no other owner.
            let copy =
                unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
            let socket = Socket::from(owned(copy)?);
            if socket.protocol()? == Some(Protocol::TCP) {
                sockets.push(socket);
            }
        }
    }
    Ok(sockets)
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result).unwrap() {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just returned this descriptor: it is open and has no other owner.
        descriptor => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
    }
}

/// The buffers of a socket that were set and therefore do not grow, as bits of `SO_BUF_LOCK` (man 7
/// socket).
fn fixed_buffers(socket: &Socket) -> i32 {
    let mut locks: libc::c_int = -1;
    let mut length = size_of_val(&locks) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `locks`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BUF_LOCK,
            (&raw mut locks).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    locks
}

#[test]
fn a_buffer_that_was_set_is_detected() {
    let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    assert_eq!(fixed_buffers(&socket), 0);
    socket.set_recv_buffer_size(1 << 20).unwrap();
    assert_ne!(fixed_buffers(&socket), 0);
}

/// Requires at least this many TCP sockets in a process, none of which has a buffer of fixed size.
fn assert_windows_grow(pid: u32, at_least: usize) {
    let sockets = match tcp_sockets(pid) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let what = "the buffers of another process: not permitted to duplicate its descriptors";
            return report_skipped(what, &error);
        }
        sockets => sockets.unwrap(),
    };
    assert!(sockets.len() >= at_least, "{sockets:?}");
    for socket in sockets {
        assert_eq!(fixed_buffers(&socket), 0, "{socket:?}");
    }
}

#[test]
fn the_windows_of_direct_connections_may_grow() {
    for (plane, kind) in [("tls", "secure"), ("tcp", "insecure")] {
        let seam = Seam::with_listeners(role::listeners());
        let mut tunnel = NegotiatedTunnel::on_plane(plane, seam, &plane_request(kind));
        let (source, target) = tunnel.pair();
        exchange_bytes(&source, &target);
        // The connector also has the control connection, and the listener its listening socket.
        assert_windows_grow(tunnel.connector.child.id(), 2);
        let listener = tunnel.seam.listener.lock().unwrap();
        assert_windows_grow(listener.as_ref().unwrap().pid(), 2);
    }
}

#[test]
fn the_windows_of_websockets_may_grow() {
    let target = Seam::default().target();
    let mut connector = Connector::connected(&target);
    let echo = connector.open(&target, "/run/echo");
    exchange_bytes(&echo, &echo);
    assert_windows_grow(connector.child.id(), 2);
}
