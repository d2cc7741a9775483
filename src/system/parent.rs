//! Ending with the process that started this one.

use nix::sys::prctl;
use nix::sys::signal::Signal;
use std::io;

/// While this value lives, the kernel sends SIGTERM to this process when its parent dies.
///
/// The end of input is not enough: another child of the parent may hold the other end of the pipe.
#[derive(Debug)]
pub(crate) struct ParentDeathSignal {
    before: Option<Signal>,
}

impl ParentDeathSignal {
    /// Requests the signal.
    pub(crate) fn set() -> io::Result<Self> {
        let before = prctl::get_pdeathsig()?;
        prctl::set_pdeathsig(Signal::SIGTERM)?;
        Ok(Self { before })
    }
}

impl Drop for ParentDeathSignal {
    fn drop(&mut self) {
        let _ = prctl::set_pdeathsig(self.before);
    }
}
