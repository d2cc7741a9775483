//! Signals that end the connector, without touching a handler.

use crate::relay::readiness::watch;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What asks a program to end.
const ENDING: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// While this value lives, the calling thread has the ending signals blocked, and they can be
/// waited for instead. The mask is restored when it is dropped; a signal handler, or its absence,
/// stays as the caller left it.
#[derive(Debug)]
pub(super) struct Signals {
    fd: AsyncFd<SignalFd>,
    before: SigSet,
}

impl Signals {
    /// Blocks the ending signals. To be called in a runtime that runs on this thread.
    pub(super) fn block() -> io::Result<Self> {
        let ending: SigSet = ENDING.into_iter().collect();
        let before = SigSet::thread_get_mask()?;
        ending.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&ending, flags)
            .map_err(io::Error::from)
            .and_then(|fd| Ok(watch(fd, Interest::READABLE)?))
            .inspect_err(|_| {
                let _ = before.thread_set_mask();
            })?;
        Ok(Self { fd, before })
    }

    /// Waits for one of the signals; its name.
    pub(super) async fn wait(&self) -> io::Result<&'static str> {
        loop {
            let mut guard = self.fd.readable().await?;
            if let Some(info) = self.fd.get_ref().read_signal()? {
                let signal = i32::try_from(info.ssi_signo).ok().map(Signal::try_from);
                return Ok(signal
                    .and_then(Result::ok)
                    .map_or("a signal", Signal::as_str));
            }
            guard.clear_ready();
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}
