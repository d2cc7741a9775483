//! Signals that end a check, which first has to clean up at the target.

use nix::sys::signal::{SigSet, Signal, raise};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

/// The signals by which a terminal, a shell or a system ends a program.
const ENDING: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
];

/// Whether one of the signals has arrived.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicI32>);

impl Interrupt {
    /// Blocks the signals in this thread and in those that it starts, and waits for them in another one.
    /// A signal that is ignored stays ignored.
    pub(super) fn watch() -> io::Result<Self> {
        // The kernel keeps a blocked signal for `sigwait` even if it is ignored.
        let ignored = pve_tunnel::ignored_signals();
        let signals: SigSet = ENDING
            .into_iter()
            .filter(|signal| !ignored.contains(*signal))
            .collect();
        signals.thread_block()?;
        let arrived = Arc::new(AtomicI32::new(0));
        let first = arrived.clone();
        thread::Builder::new().spawn(move || {
            while let Ok(signal) = signals.wait() {
                // The first signal counts. Further ones must not interrupt the clean-up, which is limited.
                let _ =
                    first.compare_exchange(0, signal as i32, Ordering::Relaxed, Ordering::Relaxed);
            }
        })?;
        Ok(Self(arrived))
    }

    pub(super) fn has_arrived(&self) -> bool {
        self.signal().is_some()
    }

    /// The signal that has arrived.
    pub(super) fn signal(&self) -> Option<Signal> {
        Signal::try_from(self.0.load(Ordering::Relaxed)).ok()
    }

    /// Ends this process by the signal that has arrived, if there is one.
    pub(super) fn end_process(&self) {
        if let Some(signal) = self.signal() {
            let signals: SigSet = ENDING.into_iter().collect();
            let _ = signals.thread_unblock();
            let _ = raise(signal);
        }
    }
}
