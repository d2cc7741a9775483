//! Copies of the caller's descriptors.

use std::ffi::c_int;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::error::{Failure, Status};

/// Duplicates a descriptor, so that the library can close its copy and the caller's stays open.
pub(super) fn duplicate(fd: c_int, what: &str) -> Result<OwnedFd, Failure> {
    let bad = |why: &str| {
        Failure::new(
            Status::InvalidArgument,
            format!("{what} descriptor {fd}: {why}"),
        )
    };
    if fd < 0 {
        return Err(bad("negative"));
    }
    // SAFETY: not -1; the kernel reports an error if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed
        .try_clone_to_owned()
        .map_err(|error| bad(&error.to_string()))
}
