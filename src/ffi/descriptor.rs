//! Descriptors that stay the caller's.

use std::ffi::c_int;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::error::{Failure, Status};

/// Our own descriptor of the caller's open file, so that closing ours leaves the caller's alone.
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
    // SAFETY: not -1; whether it is open is what the kernel is about to say.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed
        .try_clone_to_owned()
        .map_err(|error| bad(&error.to_string()))
}
