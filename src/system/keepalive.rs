//! How the kernel detects that the peer of a TCP connection is dead.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// Unanswered probes after which the kernel gives up an idle connection.
const PROBES: u32 = 6;

/// The kernel counts these times in seconds.
const SECOND: Duration = Duration::from_secs(1);

/// Disables Nagle's algorithm and enables keepalive, so that the kernel detects a dead peer of an
/// idle connection within about `limit`: the first probe follows after half of it, [`PROBES`] probes
/// share the rest.
pub(crate) fn enable(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time((limit / 2).max(SECOND))
        .with_interval((limit / (2 * PROBES)).max(SECOND))
        .with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// As [`enable`], and the kernel also gives up when sent data has not been acknowledged or accepted
/// for `limit`. Only for a peer that never makes a writer wait that long, such as pveproxy, which
/// reads everything at once.
pub(crate) fn enable_with_user_timeout(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    enable(stream, limit)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(limit))
}
