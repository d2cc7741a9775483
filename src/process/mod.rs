//! The channels of connector and listener, the two long-running processes: lines in and out, and
//! diagnostics.

mod channel;
mod log;
mod log_limit;

pub(crate) use channel::{Input, Line, Lines, Output};
pub(crate) use log::Log;

/// The longest line, in bytes. The configuration of a guest with its firewall rules, the longest
/// line that occurs, stays far below.
pub(crate) const MAX_LINE: usize = 1 << 20;

/// The message about a longer line.
pub(crate) fn too_long(what: &str) -> String {
    format!("{what} is longer than {} MiB", MAX_LINE >> 20)
}
