//! What lanes have done, counted.

use crate::quantity::Size;
use serde::Serialize;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one stream.
#[derive(Debug, Default)]
pub(crate) struct LaneCounters {
    most: AtomicU64,
    reopened: AtomicU64,
    resent: AtomicU64,
    zeros: AtomicU64,
    compressed: AtomicU64,
}

impl LaneCounters {
    /// So many lanes are open.
    pub(crate) fn open(&self, lanes: usize) {
        self.most.fetch_max(lanes as u64, Ordering::Relaxed);
    }

    /// A lane was opened in place of one that has failed.
    pub(crate) fn reopened(&self) {
        self.reopened.fetch_add(1, Ordering::Relaxed);
    }

    /// So many bytes were sent again.
    pub(crate) fn resent(&self, bytes: usize) {
        self.resent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// So many bytes were zeros, and were not sent.
    pub(crate) fn zeros(&self, bytes: usize) {
        self.zeros.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Compression has saved so many bytes.
    pub(crate) fn compressed(&self, saved: usize) {
        self.compressed.fetch_add(saved as u64, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub(crate) fn usage(&self) -> LaneUsage {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LaneUsage {
            most: value(&self.most),
            reopened: value(&self.reopened),
            resent: value(&self.resent),
            zeros: value(&self.zeros),
            compressed: value(&self.compressed),
        }
    }
}

/// What the lanes of streams have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct LaneUsage {
    /// The most lanes of one stream that were open at once. Zero if no stream has lanes.
    most: u64,
    /// Lanes that were opened in place of ones that have failed.
    reopened: u64,
    /// Bytes that were sent again.
    resent: u64,
    /// Bytes of the streams that were zeros: only their number was sent.
    zeros: u64,
    /// Bytes of the streams that were not sent, because their data was compressed.
    compressed: u64,
}

impl LaneUsage {
    /// Whether no stream has lanes.
    pub(crate) fn is_none(&self) -> bool {
        self.most == 0
    }

    /// That of both.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            most: self.most.max(other.most),
            reopened: self.reopened + other.reopened,
            resent: self.resent + other.resent,
            zeros: self.zeros + other.zeros,
            compressed: self.compressed + other.compressed,
        }
    }

    /// What was counted after `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            most: self.most,
            reopened: self.reopened.saturating_sub(before.reopened),
            resent: self.resent.saturating_sub(before.resent),
            zeros: self.zeros.saturating_sub(before.zeros),
            compressed: self.compressed.saturating_sub(before.compressed),
        }
    }
}

/// The end of a line about data; empty if no stream has lanes.
impl fmt::Display for LaneUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.most {
            0 => return Ok(()),
            1 => write!(f, ", 1 lane")?,
            most => write!(f, ", up to {most} lanes")?,
        }
        if self.reopened > 0 {
            write!(f, ", {} opened again", self.reopened)?;
        }
        if self.resent > 0 {
            write!(f, ", {} sent again", Size(self.resent))?;
        }
        if self.zeros > 0 {
            write!(f, ", {} of zeros not sent", Size(self.zeros))?;
        }
        if self.compressed > 0 {
            write!(f, ", {} saved by compression", Size(self.compressed))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_has_happened_and_nothing_else() {
        let counters = LaneCounters::default();
        assert_eq!(counters.usage().to_string(), "");
        counters.open(1);
        assert_eq!(counters.usage().to_string(), ", 1 lane");
        counters.open(4);
        counters.open(2);
        let before = counters.usage();
        assert_eq!(before.to_string(), ", up to 4 lanes");
        counters.reopened();
        counters.resent(3 << 20);
        counters.zeros(1 << 30);
        counters.compressed(5 << 20);
        let text = ", up to 4 lanes, 1 opened again, 3.0 MiB sent again, 1.0 GiB of zeros not sent, 5.0 MiB saved by compression";
        assert_eq!(counters.usage().to_string(), text);
        assert_eq!(counters.usage().since(before).to_string(), text);
        let twice = counters.usage().plus(counters.usage());
        assert_eq!((twice.most, twice.zeros), (4, 2 << 30));
    }
}
