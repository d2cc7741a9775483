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
}

impl fmt::Display for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            plane,
            has_listener,
        } = self;
        write!(formatter, "plane '{}'", plane.name())?;
        match plane {
            Plane::Websocket if *has_listener => formatter.write_str(" with lanes"),
            _ => Ok(()),
        }
    }
}
