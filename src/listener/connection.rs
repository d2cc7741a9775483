//! What the listener logs about a connection to a program.

use crate::process::Log;
use crate::relay::Stream;
use crate::tuning::{Limit, Observer, State};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

/// A connection in the log.
pub(super) struct Connection {
    pub(super) path: String,
    pub(super) number: u64,
    pub(super) log: Arc<Log>,
}

impl Connection {
    /// The source reports a lane that fails, too, and opens it again.
    pub(super) fn lane_failed(&self, stream: &Stream, reason: &str) {
        if !stream.is_over() {
            self.lane_changed(&format_args!("a lane failed: {reason}"));
        }
    }
}

impl Observer for Connection {
    fn socket_changed(&self, text: &dyn Display) {
        let Self { path, number, log } = self;
        log.limited(
            "listener: changes of sockets",
            format_args!("listener: '{path}': connection {number}: {text}"),
        );
    }

    /// The source reports what limits the migration.
    fn limited_by(&self, _: Limit, _: Duration, _: State) {}

    fn lane_changed(&self, text: &dyn Display) {
        let Self { path, number, log } = self;
        log.limited(
            "listener: changes of lanes",
            format_args!("listener: '{path}': connection {number}: {text}"),
        );
    }
}
