//! The line about the progress of a whole migration: bytes so far, the total if it can be known, the
//! rate, and the time left.

mod expected;
mod guest_size;

pub(super) use expected::{Expected, ForwardState, expected};
pub(super) use guest_size::GuestSize;

use crate::quantity::{Size, Span, time_left};
use std::fmt;
use std::time::Duration;

/// The progress at one moment. The line is its [`Display`](fmt::Display).
#[derive(Debug, PartialEq)]
pub(super) struct Progress {
    /// Bytes of all forwards in both directions.
    pub(super) done: u64,
    pub(super) expected: Expected,
    /// Of the time since the last line.
    pub(super) rate: Rate,
}

/// How fast data has moved since the last line.
#[derive(Debug, PartialEq)]
pub(super) enum Rate {
    /// Bytes in a second.
    Moving(u64),
    /// Nothing has moved for this time, although connections were open.
    Stalled(Duration),
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "progress: {}", Size(self.done))?;
        write!(f, "{}", OfTotal(self.done, &self.expected))?;
        match self.rate {
            Rate::Moving(rate) => write!(f, ", {}/s", Size(rate))?,
            Rate::Stalled(time) => {
                return write!(f, ", no data in the last {}", Span(time));
            }
        }
        match self.time_left() {
            Some(left) => write!(f, ", {} left", Span(left)),
            None => Ok(()),
        }
    }
}

impl Progress {
    /// The time until the total is reached at this rate; none if either is unknown.
    fn time_left(&self) -> Option<Duration> {
        let Expected::Total { bytes, .. } = self.expected else {
            return None;
        };
        let Rate::Moving(rate) = self.rate else {
            return None;
        };
        time_left(bytes.saturating_sub(self.done), rate)
    }
}

/// The part of the line that compares the bytes so far with the total.
struct OfTotal<'a>(u64, &'a Expected);

impl fmt::Display for OfTotal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(done, expected) = self;
        match expected {
            Expected::Unknown => Ok(()),
            Expected::Total { bytes, accuracy } => {
                let percent = u128::from(*done) * 100 / u128::from((*bytes).max(1));
                let (words, percent) = (accuracy.words(), percent.min(100));
                write!(f, " of {words} {} ({percent} %)", Size(*bytes))
            }
            Expected::Exceeded { bytes } => {
                write!(f, ", more than the expected {}", Size(*bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::expected::Accuracy;
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn the_line_has_what_is_known() {
        let about = |bytes| Expected::Total {
            bytes,
            accuracy: Accuracy::About,
        };
        let at_least = |bytes| Expected::Total {
            bytes,
            accuracy: Accuracy::AtLeast,
        };
        let moving = |mebibytes| Rate::Moving(mebibytes * MIB);
        #[rustfmt::skip] // One row a line.
        let table = [
            (8 * GIB, about(32 * GIB), moving(512),
                "8.0 GiB of about 32.0 GiB (25 %), 512.0 MiB/s, 48 s left"),
            (GIB, at_least(2048 * GIB), moving(100),
                "1.0 GiB of at least 2.0 TiB (0 %), 100.0 MiB/s, 5 h 49 min left"),
            (64 * MIB + 8, at_least(64 * MIB + 8), moving(1),
                "64.0 MiB of at least 64.0 MiB (100 %), 1.0 MiB/s, 0 s left"),
            (GIB, Expected::Unknown, moving(3), "1.0 GiB, 3.0 MiB/s"),
            (5 * GIB, Expected::Exceeded { bytes: 4 * GIB }, moving(3),
                "5.0 GiB, more than the expected 4.0 GiB, 3.0 MiB/s"),
            (GIB, about(4 * GIB), Rate::Stalled(Duration::from_secs(10)),
                "1.0 GiB of about 4.0 GiB (25 %), no data in the last 10 s"),
            (GIB, Expected::Unknown, Rate::Stalled(Duration::from_secs(10)),
                "1.0 GiB, no data in the last 10 s"),
            // Less than a byte in a second: no division by zero, and no time.
            (1, about(GIB), Rate::Moving(0), "1 B of about 1.0 GiB (0 %), 0 B/s"),
            (0, about(0), moving(1), "0 B of about 0 B (0 %), 1.0 MiB/s, 0 s left"),
            (1, about(u64::MAX), Rate::Moving(1),
                "1 B of about 16384.0 PiB (0 %), 1 B/s, 213503982334601 d 7 h left"),
        ];
        for (done, expected, rate, line) in table {
            let progress = Progress {
                done,
                expected,
                rate,
            };
            assert_eq!(progress.to_string(), format!("progress: {line}"));
        }
    }
}
