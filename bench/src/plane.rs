//! pve-tunnel on each plane.

use crate::peer::node::{Front, Node};
use crate::tunnel::{CONNECTOR, Ends, LISTENER, Tunnel};
use testing::role;
use testing::seam::{NegotiatedTunnel, Seam, plane_request};

/// A tunnel on a plane: a connector and a listener on `tls` and `tcp`, a connector and the test
/// node on `websocket`. Fails if the test node cannot start.
pub fn tunnel(plane: &str) -> Result<Box<dyn Tunnel>, String> {
    match plane {
        "websocket" => Ok(Box::new(Node::start(Front::TestNode)?)),
        _ => Ok(Box::new(direct(plane))),
    }
}

/// A connector and a listener on `tls` or `tcp`.
pub fn direct(plane: &str) -> NegotiatedTunnel {
    let migration_type = match plane {
        "tls" => "secure",
        _ => "insecure",
    };
    let seam = Seam::with_listeners(role::listeners());
    NegotiatedTunnel::on_plane(plane, seam, &plane_request(migration_type))
}

impl Tunnel for NegotiatedTunnel {
    fn connect(&mut self) -> Ends {
        let (source, sink) = self.pair();
        Ends { source, sink }
    }

    fn processes(&self) -> Vec<(&str, u32)> {
        vec![
            (CONNECTOR, self.connector.child.id()),
            (LISTENER, self.seam.listener_pid()),
        ]
    }
}
