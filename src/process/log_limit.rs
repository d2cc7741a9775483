//! The limit on log lines that a peer can cause.
//!
//! A peer may cause as many events as it likes, and each event would be a line. So such lines have a
//! kind, and each kind has a token bucket: the first [`BURST`] lines are logged, then one in each
//! [`REFILL`]. The other lines are counted, and a line reports their number.

use std::fmt;
use std::time::{Duration, Instant};

/// Lines of one kind that are logged one after the other. Ordinary migrations have fewer.
const BURST: u32 = 20;

/// The time after which one more line of a kind may be logged. With the line that reports a number,
/// that is at most 240 lines of a kind in an hour.
const REFILL: Duration = Duration::from_secs(30);

/// Lines of one kind that were not logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unlogged {
    kind: &'static str,
    count: u64,
    /// From the first of them until the report.
    during: Duration,
}

impl fmt::Display for Unlogged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            count,
            during,
        } = self;
        let seconds = during.as_secs().max(1);
        write!(
            f,
            "{kind}: {count} more lines in the last {seconds} s were not logged"
        )
    }
}

/// The decision about one line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Log it, after a report about earlier lines of its kind.
    Log(Option<Unlogged>),
    /// Do not log it.
    Count,
}

/// The buckets of all kinds. There are as many as the program has names for them.
#[derive(Debug, Default)]
pub(super) struct LogLimit(Vec<Bucket>);

impl LogLimit {
    /// Decides about a line. Times must not decrease from one call to the next.
    pub(super) fn decide(&mut self, kind: &'static str, now: Instant) -> Verdict {
        let index = self.0.iter().position(|bucket| bucket.kind == kind);
        let index = index.unwrap_or_else(|| {
            self.0.push(Bucket::new(kind, now));
            self.0.len() - 1
        });
        self.0[index].decide(now)
    }

    /// The lines that were not logged and that no report has counted yet.
    pub(super) fn unlogged(&mut self, now: Instant) -> Vec<Unlogged> {
        self.0
            .iter_mut()
            .filter_map(|bucket| bucket.take_unlogged(now))
            .collect()
    }
}

#[derive(Debug)]
struct Bucket {
    kind: &'static str,
    tokens: u32,
    refilled: Instant,
    /// Lines that were not logged, and when the first of them came.
    unlogged: Option<(u64, Instant)>,
}

impl Bucket {
    fn new(kind: &'static str, now: Instant) -> Self {
        Self {
            kind,
            tokens: BURST,
            refilled: now,
            unlogged: None,
        }
    }

    fn decide(&mut self, now: Instant) -> Verdict {
        self.refill(now);
        if self.tokens == 0 {
            let (count, _) = self.unlogged.get_or_insert((0, now));
            *count += 1;
            return Verdict::Count;
        }
        self.tokens -= 1;
        Verdict::Log(self.take_unlogged(now))
    }

    fn refill(&mut self, now: Instant) {
        while self.tokens < BURST && now.saturating_duration_since(self.refilled) >= REFILL {
            self.tokens += 1;
            self.refilled += REFILL;
        }
        if self.tokens == BURST {
            self.refilled = now;
        }
    }

    fn take_unlogged(&mut self, now: Instant) -> Option<Unlogged> {
        let (count, since) = self.unlogged.take()?;
        Some(Unlogged {
            kind: self.kind,
            count,
            during: now.saturating_duration_since(since),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "closed connections";

    fn unlogged(count: u64, seconds: u64) -> Unlogged {
        Unlogged {
            kind: KIND,
            count,
            during: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn the_first_lines_are_logged_and_the_others_are_counted() {
        let start = Instant::now();
        // Second of the line, and the decision.
        let late = [
            (0, Verdict::Count),
            (29, Verdict::Count),
            (30, Verdict::Log(Some(unlogged(2, 30)))),
            (31, Verdict::Count),
            (59, Verdict::Count),
            (60, Verdict::Log(Some(unlogged(2, 29)))),
            // Four intervals without a line: four lines, and no report.
            (180, Verdict::Log(None)),
            (180, Verdict::Log(None)),
            (181, Verdict::Log(None)),
            (182, Verdict::Log(None)),
            (183, Verdict::Count),
            (210, Verdict::Log(Some(unlogged(1, 27)))),
        ];
        let mut limit = LogLimit::default();
        for line in 0..BURST {
            assert_eq!(limit.decide(KIND, start), Verdict::Log(None), "line {line}");
        }
        for (second, expected) in late {
            let now = start + Duration::from_secs(second);
            assert_eq!(limit.decide(KIND, now), expected, "second {second}");
        }
    }

    #[test]
    fn the_lines_of_an_hour_are_bounded_at_any_rate() {
        for rate in [1_u32, 10, 1000] {
            let start = Instant::now();
            let mut limit = LogLimit::default();
            let (mut logged, mut counted) = (0, 0);
            for number in 0..3600 * rate {
                let now = start + Duration::from_millis(u64::from(number) * 1000 / u64::from(rate));
                if let Verdict::Log(report) = limit.decide(KIND, now) {
                    logged += 1 + u32::from(report.is_some());
                    counted += 1 + report.map_or(0, |unlogged| unlogged.count);
                }
            }
            assert!(logged <= BURST + 240, "{rate} lines/s: {logged}");
            let rest = limit.unlogged(start + Duration::from_secs(3600));
            counted += rest.iter().map(|unlogged| unlogged.count).sum::<u64>();
            assert_eq!(counted, u64::from(3600 * rate), "{rate} lines/s");
        }
    }

    #[test]
    fn a_long_pause_does_not_permit_more_lines_than_at_the_start() {
        let start = Instant::now();
        let mut limit = LogLimit::default();
        for now in [start, start + Duration::from_secs(1 << 30)] {
            for _ in 0..BURST {
                assert!(matches!(limit.decide(KIND, now), Verdict::Log(_)));
            }
            assert_eq!(limit.decide(KIND, now), Verdict::Count);
        }
    }

    #[test]
    fn kinds_do_not_affect_each_other_and_the_rest_is_reported_once() {
        let start = Instant::now();
        let end = start + Duration::from_secs(5);
        let mut limit = LogLimit::default();
        for _ in 0..BURST + 7 {
            limit.decide(KIND, start);
        }
        assert_eq!(limit.decide("another kind", start), Verdict::Log(None));
        assert_eq!(limit.unlogged(end), [unlogged(7, 5)]);
        assert_eq!(limit.unlogged(end), []);
        assert_eq!(
            unlogged(7, 5).to_string(),
            "closed connections: 7 more lines in the last 5 s were not logged"
        );
    }
}
