//! Numbers of bytes, rates and times, for people.

use std::fmt;
use std::time::Duration;

/// A number of bytes, with one decimal and a binary unit: `1.5 MiB`.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    #[allow(clippy::cast_precision_loss)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut size = self.0 as f64 / 1024.0;
        let mut units = UNITS.iter();
        let mut unit = units.next();
        while size >= 1024.0 {
            let Some(next) = units.next() else { break };
            unit = Some(next);
            size /= 1024.0;
        }
        write!(f, "{size:.1} {}", unit.unwrap_or(&"KiB"))
    }
}

/// A time in its two largest units, in whole seconds: `3 min 20 s`.
#[derive(Clone, Copy, Debug)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
        if minutes == 0 {
            write!(f, "{seconds} s")
        } else if hours == 0 {
            write!(f, "{minutes} min {} s", seconds % 60)
        } else if days == 0 {
            write!(f, "{hours} h {} min", minutes % 60)
        } else {
            write!(f, "{days} d {} h", hours % 24)
        }
    }
}

/// The time for so many bytes at this rate in bytes per second; none if nothing moves.
#[must_use]
pub fn time_left(bytes: u64, rate: u64) -> Option<Duration> {
    (rate > 0).then(|| Duration::from_secs(bytes.div_ceil(rate)))
}

/// Bytes per second.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
#[must_use]
pub fn rate(bytes: u64, seconds: f64) -> u64 {
    (bytes as f64 / seconds.max(0.001)) as u64
}

#[cfg(test)]
mod tests {
    use super::{Size, Span};
    use std::time::Duration;

    #[test]
    fn sizes_have_one_decimal_and_a_binary_unit() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (1 << 40, "1.0 TiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), expected);
        }
    }

    #[test]
    fn times_have_two_units() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3599, "59 min 59 s"),
            (3600, "1 h 0 min"),
            (86399, "23 h 59 min"),
            (90000, "1 d 1 h"),
        ] {
            assert_eq!(Span(Duration::from_secs(seconds)).to_string(), expected);
        }
    }
}
