//! What happens to a packet: when it arrives, and which of its segments are lost.

use std::ops::Range;
use std::time::{Duration, Instant};

/// One gigabit per second, in bytes per second.
pub const GIGABIT: u64 = 125_000_000;

/// How the link treats the packets of one direction.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// Bytes of IP packets per second.
    pub rate: u64,
    /// How long a packet may wait until the link has sent those before it. A packet that would have
    /// to wait longer is lost, as at a switch whose queue is full.
    pub queue: Duration,
    /// The time from one end of the link to the other.
    pub delay: Duration,
    /// The share of packets that are lost at random: 0.01 is 1 %.
    pub loss: f64,
    /// The length of the largest IP packet that passes. Larger ones are lost, without an ICMP error.
    pub largest: usize,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            rate: GIGABIT,
            queue: Duration::from_millis(20),
            delay: Duration::ZERO,
            loss: 0.0,
            largest: usize::MAX,
        }
    }
}

/// The state of one direction.
pub(super) struct Passage {
    /// When the link has sent all packets that it has accepted.
    free: Instant,
    random: fastrand::Rng,
}

/// Consecutive segments that pass, and when the last of them arrives.
pub(super) type Arrival = (Range<usize>, Instant);

impl Passage {
    /// Passages with the same seed lose the same packets.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            free: Instant::now(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Decides about a packet that is sent at `now` and whose segments have these lengths. Returns
    /// the segments that pass.
    pub(super) fn pass(
        &mut self,
        now: Instant,
        segments: impl Iterator<Item = usize>,
        conditions: &Conditions,
    ) -> Vec<Arrival> {
        let mut arrivals: Vec<Arrival> = Vec::new();
        for (index, length) in segments.enumerate() {
            if !self.passes(now, length, conditions) {
                continue;
            }
            let due = self.free + conditions.delay;
            match arrivals.last_mut() {
                Some((range, time)) if range.end == index => (range.end, *time) = (index + 1, due),
                _ => arrivals.push((index..index + 1, due)),
            }
        }
        arrivals
    }

    fn passes(&mut self, now: Instant, length: usize, conditions: &Conditions) -> bool {
        let start = self.free.max(now);
        if start - now > conditions.queue {
            return false;
        }
        let seconds = length as f64 / conditions.rate as f64;
        self.free = start + Duration::from_secs_f64(seconds);
        length <= conditions.largest && self.random.f64() >= conditions.loss
    }
}
