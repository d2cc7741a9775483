//! Whether threads lose their cores while they hold what others wait for (lock holder preemption).
//!
//! Within a turn, a copy into or out of the local socket is the cheapest way. But a thread that has used up
//! its quota of CPU time has no core for most of a period, usually 100 ms. If that happens within its turn,
//! all lanes wait for it. Then pipes are better, with which a turn is very short.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A turn of this length was interrupted: the copy takes less than a tenth of it. Busy cores that have no
/// quota rarely leave a thread for so long.
const INTERRUPTED: Duration = Duration::from_millis(20);

/// For how long more of them are expected after one.
const EXPECTED: Duration = Duration::from_secs(10);

/// The interruptions of the threads of a stream.
#[derive(Debug)]
pub(super) struct Preemption {
    begun: Instant,
    /// Until when more of them are expected, in milliseconds since the beginning; 0 before the first one.
    until: AtomicU64,
}

impl Preemption {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            until: AtomicU64::new(0),
        }
    }

    /// Does something for which other lanes have to wait, and measures how long it takes.
    pub(super) fn observe<T>(&self, turn: impl FnOnce() -> T) -> T {
        let from = Instant::now();
        let result = turn();
        self.held(from, Instant::now());
        result
    }

    /// One lane has kept the others waiting for this time.
    pub(super) fn held(&self, from: Instant, to: Instant) {
        if to.saturating_duration_since(from) >= INTERRUPTED {
            let until = self.since_begun(to + EXPECTED);
            self.until.store(until, Ordering::Relaxed);
        }
    }

    /// Whether a turn is likely to be interrupted at this time.
    pub(super) fn is_likely(&self, now: impl FnOnce() -> Instant) -> bool {
        match self.until.load(Ordering::Relaxed) {
            0 => false,
            until => self.since_begun(now()) < until,
        }
    }

    fn since_begun(&self, at: Instant) -> u64 {
        let time = at.saturating_duration_since(self.begun);
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_is_remembered_for_some_time() {
        let preemption = Preemption::new();
        let begun = preemption.begun;
        let at = |milliseconds| begun + Duration::from_millis(milliseconds);
        let is_likely = |milliseconds| preemption.is_likely(|| at(milliseconds));
        preemption.held(at(0), at(19));
        assert!(!is_likely(20));
        preemption.held(at(100), at(190));
        assert!(is_likely(191) && is_likely(10_189));
        assert!(!is_likely(10_190));
        preemption.held(at(20_000), at(20_001));
        assert!(!is_likely(20_002));
        preemption.held(at(30_000), at(30_020));
        preemption.held(at(35_000), at(35_020));
        assert!(is_likely(45_019) && !is_likely(45_020));
    }
}
