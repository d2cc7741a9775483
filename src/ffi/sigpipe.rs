//! Writing to a pipe that nobody reads is an error here, not the end of the process.
//!
//! Rust programs ignore SIGPIPE from their start on; a C or Perl program that calls us may not, and
//! its handlers are not ours to change. So the signal is blocked in the calling thread, and what we
//! caused is taken away before it is unblocked.

use std::mem::MaybeUninit;
use std::ptr;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use super::error::{Failure, Status};

/// While this value lives, SIGPIPE is blocked in the thread that made it, and in threads which that
/// one starts.
pub(super) struct SigpipeBlocked {
    /// It was blocked before: the caller's business, and stays so.
    before: bool,
    /// It was already waiting to be delivered: the caller's too.
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
            // Fails for an invalid argument only, and this is the one that worked before.
            let _ = only_sigpipe().thread_unblock();
        }
    }
}

fn only_sigpipe() -> SigSet {
    SigSet::from(Signal::SIGPIPE)
}

fn is_pending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigpending fills the set that it is given; it is read only if that worked.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0
            && libc::sigismember(pending.as_ptr(), libc::SIGPIPE) == 1
    }
}

/// Takes one waiting SIGPIPE without waiting for it.
fn take_one() -> bool {
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let set = only_sigpipe();
    // SAFETY: the set and the time live for the call, and nobody asks for details of the signal.
    unsafe { libc::sigtimedwait(set.as_ref(), ptr::null_mut(), &now) == libc::SIGPIPE }
}
