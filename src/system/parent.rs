//! Ending with the process that started this one.

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use std::io;

/// While this value lives, the kernel sends SIGTERM to this process when its parent dies, unless the
/// process ignores SIGTERM.
///
/// The end of input is not enough: another child of the parent may hold the other end of the pipe.
#[derive(Debug)]
pub(crate) struct ParentDeathSignal {
    before: Option<Signal>,
    parent: Pid,
}

impl ParentDeathSignal {
    /// Requests the signal.
    pub(crate) fn set() -> io::Result<Self> {
        let before = prctl::get_pdeathsig()?;
        let parent = getppid();
        prctl::set_pdeathsig(Signal::SIGTERM)?;
        Ok(Self { before, parent })
    }

    /// Whether the parent has died since then. A process without a parent gets another one.
    pub(crate) fn parent_has_died(&self) -> bool {
        getppid() != self.parent
    }
}

impl Drop for ParentDeathSignal {
    fn drop(&mut self) {
        let _ = prctl::set_pdeathsig(self.before);
    }
}
