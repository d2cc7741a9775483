//! Ending with the process that started us.

use nix::sys::prctl;
use nix::sys::signal::Signal;
use std::io;

/// While this value lives, the kernel sends SIGTERM to this process when its parent dies: another
/// child of the parent may hold the other end of our input then, which so has no end.
#[derive(Debug)]
pub(crate) struct Tie {
    before: Option<Signal>,
}

impl Tie {
    pub(crate) fn to_parent() -> io::Result<Self> {
        let before = prctl::get_pdeathsig()?;
        prctl::set_pdeathsig(Signal::SIGTERM)?;
        Ok(Self { before })
    }
}

impl Drop for Tie {
    fn drop(&mut self) {
        let _ = prctl::set_pdeathsig(self.before);
    }
}
