//! How long a thread has used a core, or waited for one.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// How long the calling thread has run so far, and how long it was ready to run while other threads had
/// its core, or a quota was used up.
///
/// Without `/proc/thread-self/schedstat`, only how long it has run.
pub(crate) fn busy_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat");
    text.ok()
        .and_then(|text| parse(&text))
        .unwrap_or_else(run_time)
}

/// The first two numbers, in nanoseconds (`Documentation/scheduler/sched-stats.rst` of Linux).
fn parse(schedstat: &str) -> Option<Duration> {
    let mut numbers = schedstat.split_ascii_whitespace();
    let mut next = || numbers.next()?.parse().ok().map(Duration::from_nanos);
    let (run, waited) = (next()?, next()?);
    // All zero if the kernel does not count.
    (!run.is_zero()).then_some(run + waited)
}

fn run_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_time_of_a_busy_thread_passes_and_that_of_a_sleeping_one_does_not() {
        let spin = || {
            let end = Instant::now() + Duration::from_millis(50);
            while Instant::now() < end {}
        };
        for time in [busy_time, run_time] {
            let before = time();
            std::thread::sleep(Duration::from_millis(50));
            let asleep = time() - before;
            let before = time();
            spin();
            let busy = time() - before;
            assert!(busy > 2 * asleep, "{busy:?}, {asleep:?}");
        }
    }

    #[test]
    fn what_the_kernel_does_not_count_is_not_zero_time() {
        for (text, expected) in [
            ("2000 500 7\n", Some(Duration::from_nanos(2500))),
            ("0 0 0\n", None),
            ("2000\n", None),
            ("", None),
            ("x y z\n", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }
}
