//! What the kernel reports about a TCP connection (tcp(7), `TCP_INFO`).

use nix::errno::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes of `struct tcp_info` up to the last member that is read here, which exists since Linux 5.5.
const LENGTH: usize = 232;

/// The bit of `tcpi_options` for timestamps (`TCPI_OPT_TIMESTAMPS`).
const TIMESTAMPS: u8 = 1;

/// Bytes of a timestamp in every segment, which `tcpi_advmss` does not include.
const TIMESTAMP: u32 = 12;

/// The members that are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// Segments that were sent and not acknowledged. Data that waits for a closed window was not sent.
    pub(crate) unacked: u32,
    /// The largest packet that the kernel sends on this path, in bytes with its headers.
    pub(crate) path_mtu: u32,
    /// The largest segment that this node has announced to the peer, in bytes, options of TCP included.
    pub(crate) announced_segment: u32,
    /// Bytes that the peer has acknowledged so far.
    pub(crate) bytes_acked: u64,
    /// The window that the peer has announced, in bytes. Zero: the window is closed.
    pub(crate) send_window: u32,
}

impl TcpInfo {
    /// The state of a TCP socket.
    pub(crate) fn of(socket: impl AsFd) -> io::Result<Self> {
        let mut bytes = [0; LENGTH];
        let mut length = LENGTH as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, the size of `bytes`, and the number of
        // written bytes to `length`. Both are valid for the whole call.
        #[allow(unsafe_code)]
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                bytes.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        Errno::result(result)?;
        if length as usize != LENGTH {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("the kernel reports only {length} bytes of TCP_INFO"),
            ));
        }
        Ok(Self::parse(&bytes))
    }

    /// The offsets are those of `struct tcp_info` in the kernel's `include/uapi/linux/tcp.h`, which
    /// only grows at its end.
    fn parse(bytes: &[u8; LENGTH]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_ne_bytes(word)
        };
        let mut acked = [0; 8];
        acked.copy_from_slice(&bytes[120..128]);
        let timestamp = if bytes[5] & TIMESTAMPS != 0 {
            TIMESTAMP
        } else {
            0
        };
        Self {
            unacked: word(24),
            path_mtu: word(60),
            announced_segment: word(84) + timestamp,
            bytes_acked: u64::from_ne_bytes(acked),
            send_window: word(228),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_kernel_reports_what_was_sent_on_loopback() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let before = TcpInfo::of(&stream).unwrap();
        assert!(
            before.send_window > 0 && before.path_mtu >= 1280,
            "{before:?}"
        );
        stream.write_all(&[0; 1000]).unwrap();
        peer.read_exact(&mut [0; 1000]).unwrap();
        peer.write_all(&[0]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let after = TcpInfo::of(&stream).unwrap();
        assert_eq!(after.bytes_acked, before.bytes_acked + 1000, "{after:?}");
        assert_eq!(after.unacked, 0, "{after:?}");
        assert!(TcpInfo::of(std::io::stdin()).is_err());
    }
}
