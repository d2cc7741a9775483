//! How the kernel notices that the other end of a TCP connection is dead.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// Probes without an answer after which a silent connection is given up.
const PROBES: u32 = 6;

/// The kernel counts in seconds.
const SECOND: Duration = Duration::from_secs(1);

/// Sends small data at once, and probes a connection on which nothing moves, so that a dead peer is
/// found within about `limit`: half of it is waited, then [`PROBES`] probes share the rest.
pub(crate) fn probe(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time((limit / 2).max(SECOND))
        .with_interval((limit / (2 * PROBES)).max(SECOND))
        .with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// In addition, gives up when data that was sent has not been taken for `limit`: for a peer that
/// never makes a writer wait that long, as pveproxy, which reads everything at once.
pub(crate) fn expect_progress(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    probe(stream, limit)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(limit))
}
