//! What connector and listener, the two long-running processes, are made of: lines in and out,
//! diagnostics, the signals and the parent's death that end them, and their time limits.

mod channel;
mod descriptors;
mod log;
mod signals;
mod tie;

pub(crate) use channel::{Input, Line, Lines, Output};
pub(crate) use descriptors::raise_limit;
pub(crate) use log::Log;
pub(crate) use signals::Signals;
pub(crate) use tie::Tie;

use crate::capability::scalar;
use serde::{Deserializer, de};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest line, in bytes. A guest's configuration with its firewall rules, the longest there
/// is, stays far below.
pub(crate) const MAX_LINE: usize = 1 << 20;

/// Locks what only one thread ever touches, so that a panic there is the panic that counts.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a time limit.
pub(crate) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = scalar::deserialize_real(deserializer)?;
    if !(0.001..=3600.0).contains(&seconds) {
        return Err(de::Error::custom(
            "a time limit is from 0.001 to 3600 seconds",
        ));
    }
    Ok(Duration::from_secs_f64(seconds))
}
