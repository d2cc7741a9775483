//! Opaque handles, which work only in the process that created them.

use std::process;
use std::sync::Mutex;

use super::error::{Failure, Status};

/// A value behind an opaque pointer.
///
/// PVE forks many processes, and a child inherits the pointers of its parent. The handle keeps the
/// ID of the process that created it, and does not work in another one. Simultaneous calls run one
/// after another.
#[derive(Debug)]
pub(super) struct Handle<T> {
    creator: u32,
    value: Mutex<T>,
}

impl<T> Handle<T> {
    pub(super) fn new(value: T) -> Self {
        Self {
            creator: process::id(),
            value: Mutex::new(value),
        }
    }

    /// Fails in a process that did not create the handle. Call this before taking the lock: a child
    /// may have inherited a locked mutex, which is never unlocked.
    pub(super) fn check_process(&self) -> Result<(), Failure> {
        let here = process::id();
        if self.creator == here {
            return Ok(());
        }
        Err(Failure::new(
            Status::WrongProcess,
            format!(
                "the handle belongs to process {} and cannot be used in process {here}; create a new one after a fork",
                self.creator
            ),
        ))
    }

    pub(super) fn with<R>(
        &self,
        body: impl FnOnce(&mut T) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        self.check_process()?;
        match self.value.lock() {
            Ok(mut value) => body(&mut value),
            Err(_) => Err(Failure::new(
                Status::Refused,
                "an earlier call on this handle failed by a defect in the library; free it and create a new one",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    #[test]
    fn a_handle_of_another_process_is_refused() {
        let mut handle = Handle::new(7);
        assert_eq!(handle.with(|value| Ok(*value)).ok(), Some(7));
        handle.creator = handle.creator.wrapping_add(1);
        assert!(handle.with(|value| Ok(*value)).is_err());
    }

    #[test]
    fn a_handle_is_refused_after_a_panic_in_a_call_on_it() {
        let handle = Handle::new(7);
        let panicked = std::panic::catch_unwind(|| {
            handle.with(|_| -> Result<(), Failure> { panic!("deliberate") })
        });
        assert!(panicked.is_err());
        assert!(handle.with(|value| Ok(*value)).is_err());
    }
}
