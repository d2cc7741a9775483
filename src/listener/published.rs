//! What this listener publishes about its tunnel.

use super::acceptor::Acceptor;
use crate::guest_socket::GuestSocket;
use crate::plane::Plane;
use crate::publication::{Role, TunnelState};

/// The state at this moment.
pub(super) fn state(acceptor: &Acceptor) -> TunnelState {
    let stat = acceptor.stat();
    let forwards = stat.forwards.iter();
    TunnelState {
        role: Role::Target,
        guest: forwards
            .clone()
            .find_map(|forward| GuestSocket::of(&forward.path))
            .map(|socket| socket.vmid),
        peer_guest: None,
        peer: match stat.plane {
            Plane::Websocket => Some("the API".to_owned()),
            _ => acceptor.source().map(|address| address.to_string()),
        },
        plane: Some(stat.plane.name().to_owned()),
        sent: forwards.clone().map(|forward| forward.sent).sum(),
        received: forwards.map(|forward| forward.received).sum(),
        total: None,
        total_is: None,
    }
}
