//! What connector and listener, the two long-running processes, are made of: lines in and out,
//! diagnostics, and the signals that end them.

mod channel;
mod log;
mod signals;

pub(crate) use channel::{Input, Line, Lines, Output};
pub(crate) use log::Log;
pub(crate) use signals::Signals;

/// The longest line, in bytes. A guest's configuration with its firewall rules, the longest there
/// is, stays far below.
pub(crate) const MAX_LINE: usize = 1 << 20;
