//! Detects a network path that does not deliver what was sent, while the heartbeat is still
//! answered: large packets are lost without an error if a switch has a smaller MTU than the nodes.
//!
//! `TCP_USER_TIMEOUT` is not usable here. Linux also applies it to a closed window whose probes are
//! answered, so a slow reader would count as a dead path.

use crate::system::tcp_info::TcpInfo;
use crate::tuning::{INTERVAL, Monitor};
use socket2::SockRef;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Samples within one limit, at least.
const SAMPLES: u32 = 8;

/// Bytes of a TCP header without options, as the announced segment size counts them.
const TCP_HEADER: u32 = 20;

/// For how long a connection has made no progress.
struct Progress {
    bytes_acked: u64,
    /// When the oldest unacknowledged data was first seen, or the last progress.
    since: Option<Instant>,
}

impl Progress {
    fn new() -> Self {
        Self {
            bytes_acked: 0,
            since: None,
        }
    }

    /// Evaluates a sample. Returns for how long sent data has waited for an acknowledgement.
    ///
    /// Data that waits for a closed window is not in transit, and the peer's kernel answers the
    /// probes of the window.
    fn observe(&mut self, sample: &TcpInfo, now: Instant) -> Duration {
        let in_transit = sample.unacked > 0 && sample.send_window > 0;
        let progressed = sample.bytes_acked != self.bytes_acked;
        self.bytes_acked = sample.bytes_acked;
        if !in_transit {
            self.since = None;
            return Duration::ZERO;
        }
        if progressed {
            self.since = None;
        }
        now.saturating_duration_since(*self.since.get_or_insert(now))
    }
}

/// Waits until sent data has not been acknowledged for `limit`. Returns the cause for the operator.
///
/// Does not return if the kernel does not report the state of the connection. The monitor uses the
/// same samples.
pub(super) async fn lost(socket: impl AsFd, limit: Duration, monitor: Monitor<'_>) -> String {
    let mut progress = Progress::new();
    let is_lost = |sample: &TcpInfo, now| (progress.observe(sample, now) >= limit).then_some(());
    monitor
        .run(&socket, INTERVAL.min(limit / SAMPLES), is_lost)
        .await;
    format!(
        "sent data was not acknowledged for {limit:?}: the network path loses packets; {}",
        mtu_advice(&socket)
    )
}

/// How to check the MTU of the path to the peer.
pub(super) fn mtu_advice(socket: &impl AsFd) -> String {
    let peer = SockRef::from(socket).peer_addr();
    let peer = peer.ok().and_then(|address| address.as_socket());
    match (TcpInfo::of(socket), peer) {
        (Ok(info), Some(peer)) => advice(info.path_mtu, peer.ip(), "this node"),
        _ => advice_without_mtu(),
    }
}

/// How to check the MTU of the path from the target to this node.
pub(super) fn return_mtu_advice(socket: &impl AsFd) -> String {
    let local = SockRef::from(socket).local_addr();
    let local = local.ok().and_then(|address| address.as_socket());
    match (TcpInfo::of(socket), local) {
        (Ok(info), Some(local)) => {
            let packet = info.announced_segment + ip_header(local.ip()) + TCP_HEADER;
            advice(packet, local.ip(), "the target node")
        }
        _ => advice_without_mtu(),
    }
}

fn advice_without_mtu() -> String {
    "check the MTU of each node, switch and link on the path".to_owned()
}

/// Bytes of the IP header.
fn ip_header(address: IpAddr) -> u32 {
    if address.is_ipv4() { 20 } else { 40 }
}

/// The largest payload of an ICMP echo that is not fragmented: the MTU without the headers of IP and
/// ICMP.
fn advice(mtu: u32, address: IpAddr, node: &str) -> String {
    let payload = mtu.saturating_sub(ip_header(address) + 8);
    format!("check the path MTU with 'ping -M do -s {payload} {address}' on {node}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn sample(unacked: u32, bytes_acked: u64, send_window: u32) -> TcpInfo {
        TcpInfo {
            unacked,
            path_mtu: 9000,
            announced_segment: 8960,
            bytes_acked,
            send_window,
            ..TcpInfo::default()
        }
    }

    /// The second at which samples, of which the last one repeats, count as a dead path.
    fn dead_at(samples: &[(u64, TcpInfo)]) -> Option<u64> {
        let start = Instant::now();
        let mut progress = Progress::new();
        (0..600).find(|&second| {
            let (_, sample) = samples.iter().rev().find(|(at, _)| *at <= second).unwrap();
            progress.observe(sample, start + Duration::from_secs(second)) >= LIMIT
        })
    }

    #[test]
    fn only_sent_data_without_acknowledgement_is_a_dead_path() {
        let idle = sample(0, 5000, 62_636);
        for (what, samples, expected) in [
            ("idle", vec![(0, idle)], None),
            // Recorded: MTU 9000 at the nodes and 1500 between them.
            (
                "data after a long pause",
                vec![(0, idle), (300, sample(4, 5000, 62_636))],
                Some(360),
            ),
            (
                "a stream that is cut off",
                vec![
                    (0, sample(10, 1000, 65_536)),
                    (7, sample(12, 99_000, 65_536)),
                ],
                Some(67),
            ),
            // Recorded: a reader that has stopped. Everything that was sent is acknowledged.
            (
                "a closed window",
                vec![(0, sample(9, 1000, 65_536)), (5, sample(0, 70_000, 0))],
                None,
            ),
            (
                "a closed window with a segment that the reader could not store",
                vec![(0, sample(1, 70_000, 0))],
                None,
            ),
            (
                "a cut that heals",
                vec![
                    (0, sample(10, 1000, 65_536)),
                    (59, sample(10, 2000, 65_536)),
                    (118, sample(10, 3000, 65_536)),
                    (177, idle),
                ],
                None,
            ),
        ] {
            assert_eq!(dead_at(&samples), expected, "{what}");
        }
    }

    #[test]
    fn the_advice_names_the_payload_of_a_full_packet() {
        for (address, expected) in [
            ("10.77.0.2", "'ping -M do -s 8972 10.77.0.2' on this node"),
            ("fd77::2", "'ping -M do -s 8952 fd77::2' on this node"),
        ] {
            let text = advice(9000, address.parse().unwrap(), "this node");
            assert!(text.contains(expected), "{text}");
        }
    }
}
