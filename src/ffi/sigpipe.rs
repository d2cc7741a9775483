//! Blocking SIGPIPE, so that writing to a pipe without a reader is an error and does not end the
//! process.
//!
//! Rust programs ignore SIGPIPE. A C or Perl program that calls the library may not ignore it, and
//! the library must not change the program's signal handlers. So it blocks the signal in the
//! calling thread, and removes a signal that it has caused before it unblocks it.

use std::mem::MaybeUninit;
use std::ptr;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use super::error::{Failure, Status};

/// While this value exists, SIGPIPE is blocked in the thread that created it, and in threads that
/// this thread starts.
pub(super) struct SigpipeBlocked {
    /// The caller had blocked SIGPIPE before. Then it stays blocked.
    before: bool,
    /// A SIGPIPE was pending before. Then it stays pending.
    pending: bool,
}

impl SigpipeBlocked {
    pub(super) fn new() -> Result<Self, Failure> {
        let pending = is_pending();
        let before = only_sigpipe()
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .map_err(|error| Failure::new(Status::Io, format!("cannot block SIGPIPE: {error}")))?;
        Ok(Self {
            before: before.contains(Signal::SIGPIPE),
            pending,
        })
    }
}

impl Drop for SigpipeBlocked {
    fn drop(&mut self) {
        if !self.pending {
            while is_pending() && take_one() {}
        }
        if !self.before {
            // Fails only for an invalid argument, and the same argument was valid before.
            let _ = only_sigpipe().thread_unblock();
        }
    }
}

fn only_sigpipe() -> SigSet {
    SigSet::from(Signal::SIGPIPE)
}

fn is_pending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigpending initialises the set, which is read only if the call succeeded.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0
            && libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
    }
}

/// Removes one pending SIGPIPE, without a wait. Returns whether there was one.
fn take_one() -> bool {
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let set = only_sigpipe();
    // SAFETY: the set and the time are valid during the call, and NULL requests no details.
    unsafe { libc::sigtimedwait(set.as_ref(), ptr::null_mut(), &now) == libc::SIGPIPE }
}
