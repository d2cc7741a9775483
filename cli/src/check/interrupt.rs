//! Signals that end a check, which first has to clean up at the target.

use super::advice::Advice;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The signals that end a program from outside, and can be delayed: those of a terminal, a shell or a system,
/// and those that a user or a limit of CPU time may send it.
const ENDING: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGALRM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGXCPU,
];

/// For the clean-up after a signal: a request for a tunnel that is pending, the end of the tunnel and of the
/// connector, and the question whether the guest is gone.
const CLEANUP_LIMIT: Duration = Duration::from_secs(45);

/// A further signal within this time is the same one: a program that forwards signals to a process of its own
/// process group, such as sudo(8), sends it twice.
const REPEAT: Duration = Duration::from_millis(500);

/// Prints a text at once, from another thread, and what to do.
type Notify = Box<dyn Fn(&str, Option<&Advice>) + Send>;

/// What is left at the target if the check ends now, and how it is removed.
#[derive(Debug, Clone)]
pub(super) struct Leftover {
    pub(super) text: String,
    pub(super) removal: Advice,
}

/// Whether one of the signals has arrived.
#[derive(Clone)]
pub(super) struct Interrupt(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The first signal, and when it arrived.
    arrived: Option<(Signal, Instant)>,
    leftover: Option<Leftover>,
}

impl Interrupt {
    /// Blocks the signals in this thread and in those that it starts, and waits for them in another one.
    /// A signal that is ignored stays ignored. After the first signal, a second one or the end of
    /// [`CLEANUP_LIMIT`] ends the process.
    pub(super) fn watch(notify: Notify) -> io::Result<Self> {
        // The kernel keeps a blocked signal even if it is ignored.
        let ignored = pve_tunnel::ignored_signals();
        let signals: SigSet = ENDING
            .into_iter()
            .filter(|signal| !ignored.contains(*signal))
            .collect();
        signals.thread_block()?;
        let source =
            SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let interrupt = Self(Arc::default());
        let watched = interrupt.clone();
        thread::Builder::new().spawn(move || {
            if let Some(reason) = watched.wait_for_end(&source, &notify) {
                if let Some(leftover) = watched.with(|state| state.leftover.take()) {
                    let text = format!("{reason} {}", leftover.text);
                    notify(&text, Some(&leftover.removal));
                }
                watched.end_process();
            }
        })?;
        Ok(interrupt)
    }

    /// Waits until the process has to end at once, and returns why. None if the signals cannot be read.
    fn wait_for_end(&self, source: &SignalFd, notify: &Notify) -> Option<String> {
        let signal = next(source, None)?;
        let first = Instant::now();
        self.with(|state| state.arrived = Some((signal, first)));
        let text = format!(
            "Interrupted by {signal}: the check removes what it created at the target, which takes at most {} s. A second Ctrl-C ends it at once.",
            CLEANUP_LIMIT.as_secs()
        );
        notify(&text, None);
        loop {
            match next(source, Some(first + CLEANUP_LIMIT)) {
                Some(_) if first.elapsed() < REPEAT => {}
                Some(second) => return Some(format!("Ended by a second {second}.")),
                None => return Some("The clean-up did not end in time.".to_owned()),
            }
        }
    }

    pub(super) fn has_arrived(&self) -> bool {
        self.signal().is_some()
    }

    /// The signal that has arrived.
    pub(super) fn signal(&self) -> Option<Signal> {
        self.with(|state| state.arrived.map(|(signal, _)| signal))
    }

    /// Whether the time of a step of the clean-up is over: `limit` from its start, or `interrupted` after the signal.
    pub(super) fn is_over(&self, started: Instant, limit: Duration, interrupted: Duration) -> bool {
        let signal = self.with(|state| state.arrived.map(|(_, at)| at.max(started)));
        started.elapsed() >= limit || signal.is_some_and(|at| at.elapsed() >= interrupted)
    }

    /// From now on, the end of the process leaves this at the target.
    pub(super) fn leaves(&self, leftover: Leftover) {
        self.with(|state| state.leftover = Some(leftover));
    }

    /// Everything at the target was removed, or the report describes what is left.
    pub(super) fn leaves_nothing(&self) {
        self.with(|state| state.leftover = None);
    }

    /// Ends this process by the signal that has arrived, if there is one.
    pub(super) fn end_process(&self) {
        if let Some(signal) = self.signal() {
            let signals: SigSet = ENDING.into_iter().collect();
            let _ = signals.thread_unblock();
            let _ = raise(signal);
        }
    }

    fn with<T>(&self, use_state: impl FnOnce(&mut State) -> T) -> T {
        use_state(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The next signal; none after the deadline.
fn next(source: &SignalFd, deadline: Option<Instant>) -> Option<Signal> {
    loop {
        if let Some(signal) = source.read_signal().ok()? {
            return Signal::try_from(i32::try_from(signal.ssi_signo).ok()?).ok();
        }
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return None;
                }
                // Rounded up, so that the end is not polled for.
                PollTimeout::try_from(left + Duration::from_millis(1)).ok()?
            }
        };
        let _ = poll(
            &mut [PollFd::new(source.as_fd(), PollFlags::POLLIN)],
            timeout,
        );
    }
}
