//! What this process asks of the operating system: readiness of descriptors, keepalive and state of
//! TCP connections, signals, limits, a signal at the death of its parent, UNIX sockets and directories below
//! `/run`, and memory that can hold secrets.

mod confidential;
pub(crate) mod core_time;
pub(crate) mod keepalive;
pub(crate) mod limits;
mod parent;
pub(crate) mod readiness;
pub(crate) mod run_directory;
mod signals;
pub(crate) mod socket_path;
pub(crate) mod tcp_info;
pub(crate) mod tcp_options;
mod wiping_allocator;

pub(crate) use confidential::ConfidentialMemory;
pub(crate) use parent::ParentDeathSignal;
pub(crate) use signals::Signals;
pub use signals::ignored_signals;
pub(crate) use wiping_allocator::WipingAllocator;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex that only one thread uses. Poisoning is ignored: the panic that caused it is
/// already being reported.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
