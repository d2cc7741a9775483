//! What this connector publishes about its tunnel.

use super::forward::Traffic;
use super::progress::Expected;
use crate::guest_socket::GuestSocket;
use crate::plane::Plane;
use crate::publication::{MAX_PEER, Role, TunnelState};
use crate::scalar::one_line_within;
use crate::system::lock;
use std::path::Path;
use std::sync::Mutex;

/// The ends of the tunnel, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Published(Mutex<Ends>);

#[derive(Debug, Default)]
struct Ends {
    guest: Option<u32>,
    peer_guest: Option<u32>,
    peer: Option<String>,
    plane: Option<Plane>,
}

impl Published {
    /// The control connection to this host and port is open.
    pub(super) fn connected(&self, peer: &str, peer_guest: Option<u32>) {
        let mut ends = lock(&self.0);
        ends.peer = Some(one_line_within(peer, MAX_PEER));
        ends.peer_guest = peer_guest;
        ends.plane = Some(Plane::Websocket);
    }

    /// There is a plan. Without a listener, the data takes the path of the control connection.
    pub(super) fn planned(&self, plane: Plane, listener: Option<String>) {
        let mut ends = lock(&self.0);
        ends.plane = Some(plane);
        ends.peer = listener.or(ends.peer.take());
    }

    /// A forward listens on this socket.
    pub(super) fn forwarded(&self, path: &Path) {
        if let Some(socket) = path.to_str().and_then(GuestSocket::of) {
            lock(&self.0).guest = Some(socket.vmid);
        }
    }

    /// The state at this moment.
    pub(super) fn state(&self, traffic: &Traffic) -> TunnelState {
        let (moved, expected) = traffic.state();
        let (total, accuracy) = match expected {
            Expected::Total { bytes, accuracy } => (Some(bytes), Some(accuracy)),
            Expected::Unknown | Expected::Exceeded { .. } => (None, None),
        };
        let ends = lock(&self.0);
        TunnelState {
            role: Role::Source,
            guest: ends.guest,
            peer_guest: ends.peer_guest,
            peer: ends.peer.clone(),
            plane: ends.plane.map(|plane| plane.name().to_owned()),
            sent: moved.sent,
            received: moved.received,
            total,
            total_is: accuracy.map(|accuracy| accuracy.words().to_owned()),
        }
    }
}

/// The guest at the target, from the URL of the control connection:
/// `…/nodes/NODE/qemu/VMID/mtunnelwebsocket?…`.
pub(super) fn guest_of_url(url: &str) -> Option<u32> {
    let path = url.split('?').next()?;
    let mut segments = path.rsplit('/');
    if segments.next()? != "mtunnelwebsocket" {
        return None;
    }
    let vmid = segments.next()?.parse().ok()?;
    matches!(segments.next()?, "qemu" | "lxc").then_some(vmid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_url_has_the_guest_at_the_target() {
        for (url, expected) in [
            (
                "wss://h:8006/api2/json/nodes/n/qemu/200/mtunnelwebsocket?ticket=T&socket=/lxc/9",
                Some(200),
            ),
            (
                "https://[::1]:8006/api2/json/nodes/n/lxc/201/mtunnelwebsocket",
                Some(201),
            ),
            ("wss://h/nodes/n/storage/200/mtunnelwebsocket", None),
            ("wss://h/nodes/n/qemu/x/mtunnelwebsocket", None),
            ("wss://h/nodes/n/qemu/200/other", None),
            ("wss://h", None),
            ("", None),
        ] {
            assert_eq!(guest_of_url(url), expected, "{url}");
        }
    }

    #[test]
    fn the_state_has_what_is_known() {
        let (published, traffic) = (Published::default(), Traffic::default());
        let state = published.state(&traffic);
        assert_eq!((state.guest, state.peer, state.plane), (None, None, None));

        published.connected("192.0.2.7:8006", Some(200));
        published.forwarded(Path::new("/run/other"));
        published.forwarded(Path::new("/run/qemu-server/100.migrate"));
        let state = published.state(&traffic);
        assert_eq!((state.guest, state.peer_guest), (Some(100), Some(200)));
        assert_eq!(state.peer.unwrap(), "192.0.2.7:8006");
        assert_eq!(state.plane.unwrap(), "websocket");

        published.planned(Plane::Websocket, None);
        assert_eq!(published.state(&traffic).peer.unwrap(), "192.0.2.7:8006");
        published.planned(Plane::Tls, Some("192.0.2.7:60000".to_owned()));
        let state = published.state(&traffic);
        assert_eq!(state.peer.unwrap(), "192.0.2.7:60000");
        assert_eq!(state.plane.unwrap(), "tls");
    }
}
