//! What an opaque handle knows of its maker.

use std::process;
use std::sync::Mutex;

use super::error::{Failure, Status};

/// A value behind an opaque pointer.
///
/// PVE forks everywhere, and a child inherits the pointers of its parent: the handle keeps its
/// maker's process id and works nowhere else. Calls from several threads take turns.
#[derive(Debug)]
pub(super) struct Handle<T> {
    maker: u32,
    value: Mutex<T>,
}

impl<T> Handle<T> {
    pub(super) fn new(value: T) -> Self {
        Self {
            maker: process::id(),
            value: Mutex::new(value),
        }
    }

    /// Refuses a handle of another process. To be asked before the lock: a child may inherit it
    /// locked for ever.
    pub(super) fn check_process(&self) -> Result<(), Failure> {
        let here = process::id();
        if self.maker == here {
            return Ok(());
        }
        Err(Failure::new(
            Status::WrongProcess,
            format!(
                "the handle was made in process {} and this is process {here}; make a new one after a fork",
                self.maker
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
                "an earlier call on this handle ended in a defect of the library; free it and make a new one",
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
        handle.maker = handle.maker.wrapping_add(1);
        assert!(handle.with(|value| Ok(*value)).is_err());
    }

    #[test]
    fn a_handle_that_saw_a_panic_is_refused() {
        let handle = Handle::new(7);
        let panicked = std::panic::catch_unwind(|| {
            handle.with(|_| -> Result<(), Failure> { panic!("deliberate") })
        });
        assert!(panicked.is_err());
        assert!(handle.with(|value| Ok(*value)).is_err());
    }
}
