//! The UNIX sockets that connections may be forwarded to.

use crate::direct::message::{ForwardStat, MAX_SOCKET_PATH, is_socket_path};
use crate::relay::Counters;
use crate::system::lock;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use thiserror::Error;

/// Forwards of one migration: one each for RAM, NBD, and every offline disk or volume.
const MAX_FORWARDS: usize = 256;

/// Open connections of one forward. QEMU opens up to 255 for multifd.
pub(super) const MAX_CONNECTIONS: u64 = 256;

/// Why a socket was not registered.
#[derive(Debug, Error)]
pub(super) enum RegisterError {
    #[error(
        "the path of a socket must be absolute, of at most {MAX_SOCKET_PATH} bytes, without a NUL"
    )]
    Path,
    #[error("there are already {MAX_FORWARDS} forwards")]
    TooMany,
}

/// One forward and its counters.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    pub(super) counters: Arc<Counters>,
    connections: AtomicU64,
    open: AtomicU64,
    /// Open connections that have not failed.
    transferring: AtomicU64,
    failed: AtomicU64,
}

/// Permission for one open connection of a forward. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct Permit {
    forward: Arc<Forward>,
    failed: AtomicBool,
}

impl Forward {
    /// Takes a slot; none if [`MAX_CONNECTIONS`] are open.
    pub(super) fn permit(self: &Arc<Self>) -> Option<Permit> {
        if self.open.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            return None;
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        self.transferring.fetch_add(1, Ordering::Relaxed);
        Some(Permit {
            forward: self.clone(),
            failed: AtomicBool::new(false),
        })
    }
}

impl Permit {
    pub(super) fn forward(&self) -> &Forward {
        &self.forward
    }

    /// Counts the connection as accepted and returns its number, from 1.
    pub(super) fn count(&self) -> u64 {
        self.forward.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts the connection as failed. It transfers no more data, but stays open as long as its program
    /// must not see an end of stream.
    pub(super) fn count_failure(&self) {
        if !self.failed.swap(true, Ordering::Relaxed) {
            self.forward.failed.fetch_add(1, Ordering::Relaxed);
            self.forward.transferring.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.forward.open.fetch_sub(1, Ordering::Relaxed);
        if !*self.failed.get_mut() {
            self.forward.transferring.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn number_of(index: usize) -> u32 {
    u32::try_from(index + 1).unwrap_or(u32::MAX)
}

/// All forwards; the first has number 1.
#[derive(Debug, Default)]
pub(super) struct Forwards(Mutex<Vec<Arc<Forward>>>);

impl Forwards {
    /// Returns the number of the forward for that socket, and registers it if it is new.
    pub(super) fn register(&self, path: &str) -> Result<u32, RegisterError> {
        if !is_socket_path(path) {
            return Err(RegisterError::Path);
        }
        let mut forwards = lock(&self.0);
        let found = forwards
            .iter()
            .position(|forward| forward.path == Path::new(path));
        let index = match found {
            Some(index) => index,
            None if forwards.len() >= MAX_FORWARDS => return Err(RegisterError::TooMany),
            None => {
                let number = number_of(forwards.len());
                forwards.push(Arc::new(Forward {
                    number,
                    path: path.into(),
                    counters: Arc::default(),
                    connections: AtomicU64::new(0),
                    open: AtomicU64::new(0),
                    transferring: AtomicU64::new(0),
                    failed: AtomicU64::new(0),
                }));
                forwards.len() - 1
            }
        };
        Ok(number_of(index))
    }

    /// The forward of that number.
    pub(super) fn get(&self, number: u32) -> Option<Arc<Forward>> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        lock(&self.0).get(index).cloned()
    }

    /// Whether no forward has a connection whose data may be in transit.
    pub(super) fn are_idle(&self) -> bool {
        lock(&self.0)
            .iter()
            .all(|forward| forward.transferring.load(Ordering::Relaxed) == 0)
    }

    pub(super) fn stat(&self) -> Vec<ForwardStat> {
        (1..)
            .zip(lock(&self.0).iter())
            .map(|(number, forward)| ForwardStat {
                number,
                path: forward.path.display().to_string(),
                connections: forward.connections.load(Ordering::Relaxed),
                open: forward.open.load(Ordering::Relaxed),
                failed: forward.failed.load(Ordering::Relaxed),
                received: forward.counters.received.load(Ordering::Relaxed),
                sent: forward.counters.sent.load(Ordering::Relaxed),
            })
            .collect()
    }
}
