//! What carries guest data to the target.

use pve_tunnel::plane::Plane;
use std::fmt;

/// A plane, and whether its streams end at the target's listener. Without a listener, each stream is one
/// websocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) plane: Plane,
    pub(super) has_listener: bool,
}

impl Route {
    /// `lanes`: the number of lanes, if the plane has them.
    pub(super) fn new(plane: Plane, lanes: Option<u16>) -> Self {
        Self {
            plane,
            has_listener: plane != Plane::Websocket || lanes.is_some(),
        }
    }

    /// Whether pveproxy passes the data of streams on to the listener.
    pub(super) fn is_lanes_through_api(self) -> bool {
        self.plane == Plane::Websocket && self.has_listener
    }
}

impl fmt::Display for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "plane '{}'", self.plane.name())?;
        match self.is_lanes_through_api() {
            true => formatter.write_str(" with lanes"),
            false => Ok(()),
        }
    }
}
