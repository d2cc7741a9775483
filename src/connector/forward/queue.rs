//! How many connections wait in the kernel's queue of a listening UNIX socket.
//!
//! A connection to the target is opened before the local one is accepted, so the connector needs the
//! number of waiting connections without accepting them. Only `sock_diag` (sock_diag(7)) has it.

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::stat::fstat;
use std::io;
use std::os::fd::AsFd;

/// Type of the request and of its answer (linux/sock_diag.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// The answer is an error (netlink(7)).
const NLMSG_ERROR: u16 = 2;
/// The address family of the request.
const AF_UNIX: u8 = 1;
/// Requests the attribute with the length of the queue (linux/unix_diag.h).
const UDIAG_SHOW_RQLEN: u32 = 0x10;
/// That attribute; its first four bytes count the waiting connections of a listening socket.
const UNIX_DIAG_RQLEN: u16 = 4;
/// Length of a netlink header.
const HEADER: usize = 16;
/// Length of the fixed part of the answer (`struct unix_diag_msg`).
const FIXED: usize = 16;

/// The number of waiting connections. An error if the kernel cannot report it: the module `unix_diag`
/// may be missing.
pub(super) fn waiting_connections(listener: &impl AsFd) -> io::Result<u32> {
    // Sockets are identified by the inode of their descriptor. The kernel keeps 32 bits of it.
    let inode = fstat(listener)?.st_ino as u32;
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.send_to(&request(inode), &SocketAddr::new(0, 0), 0)?;
    // The kernel answers within the call that sends the request.
    let mut answer = Vec::with_capacity(1024);
    let (_, sender) = socket.recv_from(&mut answer, libc::MSG_DONTWAIT)?;
    if sender.port_number() != 0 {
        return Err(malformed());
    }
    parse(&answer)
}

fn request(inode: u32) -> Vec<u8> {
    const NLM_F_REQUEST: u16 = 1;
    const EVERY_STATE: u32 = u32::MAX;
    const NO_COOKIE: [u32; 2] = [u32::MAX; 2];
    let mut body = vec![AF_UNIX, 0, 0, 0];
    for word in [EVERY_STATE, inode, UDIAG_SHOW_RQLEN]
        .into_iter()
        .chain(NO_COOKIE)
    {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    let length = (HEADER + body.len()) as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&body);
    message
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed answer of sock_diag")
}

/// The number of waiting connections in an answer.
fn parse(answer: &[u8]) -> io::Result<u32> {
    let word = |at: usize| {
        let bytes = answer
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes).ok_or_else(malformed)
    };
    let half = |at: usize| {
        let bytes = answer
            .get(at..at + 2)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map(u16::from_ne_bytes).ok_or_else(malformed)
    };
    match half(4)? {
        SOCK_DIAG_BY_FAMILY => {}
        NLMSG_ERROR => {
            let errno = (word(HEADER)? as i32).saturating_neg();
            return Err(io::Error::from_raw_os_error(errno));
        }
        _ => return Err(malformed()),
    }
    let mut at = HEADER + FIXED;
    while at < answer.len() {
        let length = usize::from(half(at)?);
        if half(at + 2)? == UNIX_DIAG_RQLEN {
            return word(at + 4);
        }
        // Attributes are padded to four bytes. A shorter one than its own header never ends.
        at += (length.max(4) + 3) & !3;
    }
    Err(malformed())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn waiting_connections_are_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut peers = Vec::new();
        for expected in 0..5 {
            match waiting_connections(&listener) {
                Ok(count) => assert_eq!(count, expected),
                // Kernels without the module.
                Err(error) => return assert_eq!(error.raw_os_error(), Some(libc::ENOENT)),
            }
            peers.push(UnixStream::connect(&path).unwrap());
        }
        listener.accept().unwrap();
        assert_eq!(waiting_connections(&listener).unwrap(), 4);
    }

    #[test]
    fn invalid_answers_are_errors() {
        let header = |kind: u16| {
            let mut bytes = vec![0; 4];
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.resize(HEADER, 0);
            bytes
        };
        let refused = [header(NLMSG_ERROR), (-2_i32).to_ne_bytes().to_vec()].concat();
        assert_eq!(parse(&refused).unwrap_err().raw_os_error(), Some(2));
        let mut without_attribute = header(SOCK_DIAG_BY_FAMILY);
        without_attribute.resize(HEADER + FIXED, 0);
        let mut cut_attribute = without_attribute.clone();
        cut_attribute.extend_from_slice(&12_u16.to_ne_bytes());
        cut_attribute.extend_from_slice(&UNIX_DIAG_RQLEN.to_ne_bytes());
        let mut empty_attribute = without_attribute.clone();
        empty_attribute.extend_from_slice(&[0; 8]);
        for answer in [
            Vec::new(),
            header(3),
            without_attribute,
            cut_attribute,
            empty_attribute,
        ] {
            let error = parse(&answer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{answer:?}");
        }
    }
}
