//! Waiting for the signals that end a process, without changing a signal handler.

use crate::system::readiness::register;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::cell::Cell;
use std::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The signals that request the end of a program, and the alarm by which a caller limits a call.
const ENDING: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGALRM,
];

/// While this value lives, the ending signals are blocked in the calling thread and can be waited for.
/// A signal that this process ignores stays ignored, as `nohup` requires.
///
/// When it is dropped, the mask is restored and the received signal is raised again. So the caller's
/// handler or the default action runs after the clean-up.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: AsyncFd<SignalFd>,
    before: SigSet,
    received: Cell<Option<Signal>>,
}

impl Signals {
    /// Blocks the ending signals. To be called in a runtime that runs on the calling thread.
    pub(crate) fn block() -> io::Result<Self> {
        // A blocked signal is never discarded, even if its action is to ignore it.
        let ignored = ignored_signals();
        let ending = ENDING
            .into_iter()
            .filter(|signal| !ignored.contains(*signal));
        let ending: SigSet = ending.collect();
        let before = SigSet::thread_get_mask()?;
        ending.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&ending, flags)
            .map_err(io::Error::from)
            .and_then(|fd| Ok(register(fd, Interest::READABLE)?))
            .inspect_err(|_| {
                let _ = before.thread_set_mask();
            })?;
        Ok(Self {
            fd,
            before,
            received: Cell::new(None),
        })
    }

    /// Waits for one of the signals, and returns its name.
    pub(crate) async fn wait(&self) -> io::Result<&'static str> {
        loop {
            let mut guard = self.fd.readable().await?;
            if let Some(info) = self.fd.get_ref().read_signal()? {
                let number = i32::try_from(info.ssi_signo).unwrap_or_default();
                let signal = Signal::try_from(number)?;
                self.received.set(Some(signal));
                return Ok(signal.as_str());
            }
            guard.clear_ready();
        }
    }
}

/// The signals that this process ignores. None of them if the kernel does not report them.
pub fn ignored_signals() -> SigSet {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = ignored_mask(&status);
    let is_ignored = |signal: &Signal| mask >> (*signal as u32 - 1) & 1 == 1;
    Signal::iterator().filter(is_ignored).collect()
}

/// The mask of ignored signals in the text of `/proc/self/status`: signal 1 is the lowest bit
/// (proc_pid_status(5)).
fn ignored_mask(status: &str) -> u64 {
    let digits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    digits.map_or(0, |digits| {
        u64::from_str_radix(digits.trim(), 16).unwrap_or_default()
    })
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
        if let Some(signal) = self.received.get() {
            let _ = raise(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ignored_mask;

    #[test]
    fn the_mask_of_ignored_signals_is_parsed() {
        for (status, expected) in [
            (
                "SigBlk:\t0000000000000004\nSigIgn:\t0000000000001001\nSigCgt:\t2\n",
                0x1001,
            ),
            ("SigIgn:\t8000000000000000\n", 1 << 63),
            ("SigIgn:\tnonsense\n", 0),
            ("Name:\tx\n", 0),
            ("", 0),
        ] {
            assert_eq!(ignored_mask(status), expected, "{status:?}");
        }
    }
}
