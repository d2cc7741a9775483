//! The UNIX sockets that connections may be for.

use crate::direct::message::ForwardStat;
use crate::relay::Counters;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// Forwards of one migration: RAM, NBD, and every offline disk or volume a socket of its own.
const MAX_FORWARDS: usize = 256;

/// Connections at one time on one forward: QEMU opens up to 255 for multifd.
const MAX_CONNECTIONS: u64 = 256;

/// Why a socket was not registered.
#[derive(Debug, Error)]
pub(super) enum RegisterError {
    #[error("a socket's path is absolute, at most 107 bytes long and without a NUL")]
    Path,
    #[error("there are 256 forwards already")]
    TooMany,
}

/// One forward and what went over it.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) path: PathBuf,
    pub(super) counters: Counters,
    connections: AtomicU64,
    open: AtomicU64,
    failed: AtomicU64,
}

/// The right to one connection on a forward.
#[derive(Debug)]
pub(super) struct Place(Arc<Forward>);

impl Forward {
    /// Takes one of the places; none if all are taken.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        if self.open.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            return None;
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        Some(Place(self.clone()))
    }
}

impl Place {
    pub(super) fn forward(&self) -> &Forward {
        &self.0
    }

    /// The number of the connection, now that it has been let in; from 1.
    pub(super) fn count(&self) -> u64 {
        self.0.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn failed(&self) {
        self.0.failed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All forwards; the first has number 1.
#[derive(Debug, Default)]
pub(super) struct Forwards(Mutex<Vec<Arc<Forward>>>);

impl Forwards {
    /// The number of the forward for that socket, an old one if it has one already.
    pub(super) fn register(&self, path: &str) -> Result<u32, RegisterError> {
        // sun_path has 108 bytes, the last of them zero (man 7 unix).
        if !path.starts_with('/') || path.len() > 107 || path.contains('\0') {
            return Err(RegisterError::Path);
        }
        let mut forwards = self.lock();
        let found = forwards
            .iter()
            .position(|forward| forward.path == Path::new(path));
        let index = match found {
            Some(index) => index,
            None if forwards.len() >= MAX_FORWARDS => return Err(RegisterError::TooMany),
            None => {
                forwards.push(Arc::new(Forward {
                    path: path.into(),
                    counters: Counters::default(),
                    connections: AtomicU64::new(0),
                    open: AtomicU64::new(0),
                    failed: AtomicU64::new(0),
                }));
                forwards.len() - 1
            }
        };
        Ok(u32::try_from(index + 1).unwrap_or(u32::MAX))
    }

    /// The forward of that number.
    pub(super) fn get(&self, number: u32) -> Option<Arc<Forward>> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.lock().get(index).cloned()
    }

    /// Whether no forward has a connection.
    pub(super) fn are_quiet(&self) -> bool {
        let forwards = self.lock();
        let mut open = forwards
            .iter()
            .map(|forward| forward.open.load(Ordering::Relaxed));
        open.all(|open| open == 0)
    }

    pub(super) fn stat(&self) -> Vec<ForwardStat> {
        let numbered = (1..).zip(self.lock().iter().cloned().collect::<Vec<_>>());
        numbered
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

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Forward>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
