//! pve-tunnel on each plane.

use crate::peer::node::{Front, Node};
use crate::tunnel::{CONNECTOR, Ends, LISTENER, Tunnel};
use serde_json::{Value, json};
use testing::role;
use testing::seam::{NegotiatedTunnel, Seam, plane_request_with};

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
    with_fields(plane, &json!({}))
}

/// The same, with these fields of the request for the plane.
pub fn with_fields(plane: &str, fields: &Value) -> NegotiatedTunnel {
    with_options(plane, fields, json!({}))
}

/// The same, with so many lanes for each stream, whether or not they help. One lane requires that two are
/// permitted: otherwise a stream is a connection without lanes.
pub fn with_lanes(plane: &str, lanes: u16) -> NegotiatedTunnel {
    with_fields(plane, &json!({ "lanes": lanes.max(2) })).with_lanes(lanes)
}

/// The same, with these options of the listener.
pub fn with_options(plane: &str, fields: &Value, listener: Value) -> NegotiatedTunnel {
    let migration_type = match plane {
        "tls" => "secure",
        _ => "insecure",
    };
    let seam = Seam::with_options(role::listeners(), listener);
    NegotiatedTunnel::on_plane(plane, seam, &plane_request_with(migration_type, fields))
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
