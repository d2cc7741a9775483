//! Numbers of bytes and rates, for people.

use std::fmt;

/// A number of bytes.
pub(super) struct Size(pub(super) u64);

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

/// Bytes per second.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub(super) fn rate(bytes: u64, seconds: f64) -> u64 {
    (bytes as f64 / seconds.max(0.001)) as u64
}

#[cfg(test)]
mod tests {
    use super::Size;

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
}
