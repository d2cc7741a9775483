//! What the kernel reports about a TCP connection (tcp(7), `TCP_INFO`).

use nix::errno::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Bytes of `struct tcp_info` up to the last member that is read here, which exists since Linux 5.5.
const LENGTH: usize = 232;

/// The bit of `tcpi_options` for timestamps (`TCPI_OPT_TIMESTAMPS`).
const TIMESTAMPS: u8 = 1;

/// Bytes of a timestamp in every segment, which `tcpi_advmss` does not include.
const TIMESTAMP: u32 = 12;

/// The members that are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// The exponent of the window's unit, by which this node scales the window that it announces.
    pub(crate) receive_scale: u8,
    /// The data rate was last limited by the program, which had nothing to send.
    pub(crate) app_limited: bool,
    /// Segments that were sent and not acknowledged. Data that waits for a closed window was not sent.
    pub(crate) unacked: u32,
    /// The largest packet that the kernel sends on this path, in bytes with its headers.
    pub(crate) path_mtu: u32,
    /// The smoothed round-trip time.
    pub(crate) round_trip: Duration,
    /// The largest segment that this node has announced to the peer, in bytes, options of TCP included.
    pub(crate) announced_segment: u32,
    /// Segments that were sent again so far.
    pub(crate) retransmitted: u32,
    /// Bytes that the peer has acknowledged so far.
    pub(crate) bytes_acked: u64,
    /// Bytes that were received in order so far.
    pub(crate) bytes_received: u64,
    /// Bytes that the program has written and that were not sent yet.
    pub(crate) unsent: u32,
    /// The shortest round-trip time of the last minutes. None before the first measurement.
    pub(crate) min_round_trip: Option<Duration>,
    /// Segments with data that were sent so far, repetitions included.
    pub(crate) data_segments_sent: u32,
    /// The rate at which the peer last received data, in bytes per second.
    pub(crate) delivery_rate: u64,
    /// How long there has been data that was not acknowledged.
    pub(crate) busy: Duration,
    /// The part of `busy` in which the peer's window was the limit.
    pub(crate) window_limited: Duration,
    /// The part of `busy` in which the send buffer was the limit.
    pub(crate) buffer_limited: Duration,
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
        let long = |at: usize| {
            let mut long = [0; 8];
            long.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(long)
        };
        let microseconds = |count: u32| Duration::from_micros(count.into());
        let timestamp = if bytes[5] & TIMESTAMPS != 0 {
            TIMESTAMP
        } else {
            0
        };
        // Two bit fields, which begin at the lowest bit of a byte or at the highest one.
        let (receive_scale, app_limited) = match cfg!(target_endian = "little") {
            true => (bytes[6] >> 4, bytes[7] & 1 != 0),
            false => (bytes[6] & 0xf, bytes[7] & 0x80 != 0),
        };
        Self {
            receive_scale,
            app_limited,
            unacked: word(24),
            path_mtu: word(60),
            round_trip: microseconds(word(68)),
            announced_segment: word(84) + timestamp,
            retransmitted: word(100),
            bytes_acked: long(120),
            bytes_received: long(128),
            unsent: word(144),
            min_round_trip: Some(word(148))
                .filter(|time| *time != u32::MAX)
                .map(microseconds),
            data_segments_sent: word(156),
            delivery_rate: long(160),
            busy: Duration::from_micros(long(168)),
            window_limited: Duration::from_micros(long(176)),
            buffer_limited: Duration::from_micros(long(184)),
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
        assert_eq!(after.bytes_received, 1, "{after:?}");
        assert_eq!((after.unacked, after.unsent), (0, 0), "{after:?}");
        assert!(after.data_segments_sent > before.data_segments_sent);
        // The kernel counts these times in ticks.
        assert!(after.busy >= before.busy && after.busy < Duration::from_secs(60));
        let shortest = after.min_round_trip.unwrap();
        assert!(shortest <= after.round_trip && shortest < Duration::from_secs(1));
        assert!(TcpInfo::of(std::io::stdin()).is_err());
    }
}
