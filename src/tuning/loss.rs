//! Whether the loss of packets limits a connection.
//!
//! Every path with a limited rate drops packets when its queue is full: CUBIC fills the queue, backs
//! off for some seconds, and still uses the path. A busy switch drops many packets at once, and the
//! connection recovers. Neither must count. Loss that limits CUBIC differs in three ways, which are all
//! required: it comes again and again, it comes while the queue is short, and the connection has no more
//! data in flight than CUBIC has at this share of lost segments.

use super::sample::Sample;
use std::time::{Duration, Instant};

/// The time in which the episodes have to occur. On a path of 10 Gbit/s without other loss, CUBIC fills
/// the queue once in more than this time.
const WINDOW: Duration = Duration::from_secs(10);

/// Episodes that show loss. The overflow at the end of slow start is one of them.
const EPISODES: u32 = 3;

/// Shortest time from one episode to the next, in round trips. One loss is repaired in a few of them.
const SPACING: u32 = 10;

/// The same, where round trips are short.
const MIN_SPACING: Duration = Duration::from_millis(200);

/// Segments with data that must have been sent within the window. A few probes of an idle connection
/// show nothing.
const MIN_SEGMENTS: u32 = 300;

/// The factor by which the data in flight may exceed the average of CUBIC. It varies with time, and a
/// connection begins with more.
const TOLERANCE: f64 = 4.0;

/// The data in flight is the average of one or two of these times.
const RECENT: Duration = Duration::from_millis(500);

/// The part of the highest rate that a connection keeps after loss if CUBIC uses the path. After one
/// loss it sends 70 % of what it sent before.
const KEPT: f64 = 0.6;

/// What was observed in the present window.
#[derive(Debug, Default)]
pub(super) struct Loss {
    /// The highest rate between two samples, in bytes per second.
    peak: f64,
    first_loss: Option<Instant>,
    start: Option<Start>,
    /// The beginning of the present half and of the one before, see [`RECENT`].
    halves: Option<[Start; 2]>,
    episodes: u32,
    last_episode: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Start {
    at: Instant,
    segments: u32,
    retransmitted: u32,
    acked: u64,
}

impl Start {
    fn of(sample: &Sample) -> Self {
        Self {
            at: sample.at,
            segments: sample.info.data_segments_sent,
            retransmitted: sample.info.retransmitted,
            acked: sample.info.bytes_acked,
        }
    }

    /// The rate from here to a later sample.
    fn segments_per_second(&self, now: &Sample) -> f64 {
        let segments = now.info.data_segments_sent.wrapping_sub(self.segments);
        let elapsed = now.at.saturating_duration_since(self.at).as_secs_f64();
        f64::from(segments) / elapsed.max(1e-3)
    }

    /// The rate from here to a later sample, in bytes per second.
    #[allow(clippy::cast_precision_loss)]
    fn rate(&self, now: &Sample) -> f64 {
        let acked = now.info.bytes_acked.saturating_sub(self.acked);
        let elapsed = now.at.saturating_duration_since(self.at).as_secs_f64();
        acked as f64 / elapsed.max(1e-3)
    }
}

impl Loss {
    /// Evaluates a sample and the one before it. Returns the share of lost segments, from 0 to 1, if
    /// the path loses packets.
    pub(super) fn observe(&mut self, before: &Sample, sample: &Sample) -> Option<f64> {
        let mut start = *self.start.get_or_insert_with(|| Start::of(before));
        if sample.at.saturating_duration_since(start.at) > WINDOW {
            start = Start::of(before);
            (self.start, self.episodes) = (Some(start), 0);
        }
        let recent = self.recent(before);
        let spacing = (sample.info.round_trip * SPACING).max(MIN_SPACING);
        let is_separate = self
            .last_episode
            .is_none_or(|last| sample.at.saturating_duration_since(last) >= spacing);
        let is_new = sample.info.retransmitted != before.info.retransmitted;
        if is_new && is_separate && !sample.is_queue_long() {
            self.episodes += 1;
            self.last_episode = Some(sample.at);
        }
        self.peak = self.peak.max(Start::of(before).rate(sample));
        if is_new {
            self.first_loss.get_or_insert(sample.at);
        }
        let segments = sample.info.data_segments_sent.wrapping_sub(start.segments);
        let lost = sample.info.retransmitted.wrapping_sub(start.retransmitted);
        if segments < MIN_SEGMENTS {
            return None;
        }
        let share = f64::from(lost) / f64::from(segments);
        if self.is_slowed(before, sample, &recent, spacing) {
            return Some(share);
        }
        if self.episodes < EPISODES {
            return None;
        }
        let round_trip = sample.info.round_trip.as_secs_f64();
        let in_flight = recent.segments_per_second(sample) * round_trip;
        (in_flight < TOLERANCE * cubic_window(share, round_trip)).then_some(share)
    }

    /// Whether the overflow at the end of slow start has reduced the rate so much that the path is empty
    /// for most of the time, while data waits. On a long path CUBIC needs many seconds to recover.
    fn is_slowed(&self, before: &Sample, now: &Sample, recent: &Start, spacing: Duration) -> bool {
        let Some(first) = self.first_loss else {
            return false;
        };
        let of_window = now
            .info
            .window_limited
            .saturating_sub(before.info.window_limited);
        let elapsed = now.at.saturating_duration_since(before.at);
        recent.at > first + spacing
            && now.at < first + WINDOW
            && recent.rate(now) < KEPT * self.peak
            && now.info.unsent > 0
            && of_window < elapsed / 2
            && !now.is_queue_long()
    }

    /// Where the recent past begins.
    fn recent(&mut self, before: &Sample) -> Start {
        let [mut older, mut newer] = *self.halves.get_or_insert([Start::of(before); 2]);
        if before.at.saturating_duration_since(newer.at) >= RECENT {
            (older, newer) = (newer, Start::of(before));
        }
        self.halves = Some([older, newer]);
        older
    }
}

/// The average of the segments that CUBIC has in flight at this share of lost segments (RFC 8312,
/// section 5.1). The first term is that of Reno, which CUBIC is never below.
fn cubic_window(share: f64, round_trip: f64) -> f64 {
    (1.2 / share.sqrt()).max(1.054 * (round_trip / share).powf(0.75))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::tcp_info::TcpInfo;
    use crate::system::tcp_options::BufferSizes;

    #[test]
    fn the_window_of_cubic_is_that_of_the_table_in_its_specification() {
        // RFC 8312, table 1: C=0.4, round trip 0.1 s; the Reno column where it is higher.
        for (share, expected) in [(1e-2, 12.0), (1e-3, 38.0), (1e-4, 187.0), (1e-5, 1054.0)] {
            let window = cubic_window(share, 0.1);
            assert!((window / expected - 1.0).abs() < 0.02, "{share}: {window}");
        }
    }

    /// Whether loss is found on a path of 100 ms that carried 120 MB/s, lost segments after the first
    /// second, and has carried this many MB/s since, while the round trip was this long.
    fn is_found(rate: u64, milliseconds: u64, unsent: u32) -> bool {
        let mut sample = Sample {
            at: Instant::now(),
            info: TcpInfo::default(),
            buffers: BufferSizes::default(),
            queued: 0,
            unread: 0,
        };
        sample.info.min_round_trip = Some(Duration::from_millis(100));
        sample.info.unsent = unsent;
        let mut loss = Loss::default();
        (0..50).any(|count| {
            let before = sample;
            let rate = if count < 10 { 120_000_000 } else { rate };
            sample.at += Duration::from_millis(100);
            sample.info.round_trip = Duration::from_millis(milliseconds);
            sample.info.bytes_acked += rate / 10;
            sample.info.data_segments_sent += u32::try_from(rate / 14_000).unwrap_or_default();
            sample.info.retransmitted += if count == 10 { 7000 } else { 0 };
            loss.observe(&before, &sample).is_some()
        })
    }

    #[test]
    fn an_overflow_that_leaves_a_long_path_empty_counts() {
        for (what, rate, milliseconds, unsent, expected) in [
            ("a third of the rate", 40_000_000, 101, 100_000, true),
            ("most of the rate", 80_000_000, 101, 100_000, false),
            ("a full queue", 40_000_000, 180, 100_000, false),
            ("no data waits", 40_000_000, 101, 0, false),
        ] {
            assert_eq!(is_found(rate, milliseconds, unsent), expected, "{what}");
        }
    }
}
