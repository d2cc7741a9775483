//! The rate of a measurement, without the start of TCP.
//!
//! A connection begins with a few packets in flight, and their number at most doubles with each round trip, until
//! the path or the buffers of both nodes are full. On a long path this start takes seconds, in which little
//! arrives, and a migration of minutes does not notice it. The rate is therefore that of the later half of the
//! time in which data was sent. If most of that half still belongs to the start, the rate is that of the last
//! quarter: the path carried it, and may carry more.
//!
//! - The rate is that of bytes that arrived, as the receiving end counted them. What the sending end accepts also
//!   fills buffers, which grow during the start.
//! - A part of the time is never chosen only because its rate is high: after a lost packet the receiver delivers
//!   everything at once that had arrived behind it, which is more than the path carried in that moment.
//! - What arrives after the time comes from queues, and does not count.

/// How much higher the rate of the last quarter is than that of the third one, and that of the third one than that
/// of the second one, if the start is not over. With the loss of packets the rate goes up and down, and is seldom
/// higher in each of three quarters.
const GROWTH: [f64; 2] = [1.15, 1.1];

/// How much higher the rate of the last quarter is than that of the third one, if that belongs to the start.
const GROWTH_OF_START: f64 = 1.5;

/// A number of bytes that had arrived, and when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Since any moment that is the same for all samples.
    pub(super) seconds: f64,
    /// Since the first byte.
    pub(super) bytes: u64,
}

/// What a path carries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    pub(super) bytes_per_second: f64,
    /// The start was not over at the end.
    pub(super) is_growing: bool,
}

impl Rate {
    /// The rate of data that was sent for this time, in seconds. None if there are too few samples: if everything
    /// arrived at one moment.
    pub(super) fn of(samples: &[Sample], seconds: f64) -> Option<Self> {
        let curve = Curve::new(samples);
        let (first, last) = curve.0.first().zip(curve.0.last())?;
        let begin = first.seconds;
        let quarter = seconds.min(last.seconds - begin) / 4.0;
        if quarter <= 0.0 {
            return None;
        }
        let at = |index: f64| curve.bytes_at(begin + index * quarter);
        let rate = |from: f64, to: f64| (at(to) - at(from)) / (to - from) / quarter;
        let (second, third, fourth) = (rate(1.0, 2.0), rate(2.0, 3.0), rate(3.0, 4.0));
        let is_growing = fourth > GROWTH[0] * third && third > GROWTH[1] * second;
        let bytes_per_second = match is_growing && fourth > GROWTH_OF_START * third {
            true => fourth,
            false => rate(2.0, 4.0),
        };
        (bytes_per_second > 0.0).then_some(Self {
            bytes_per_second,
            is_growing,
        })
    }
}

/// Samples in order, from the first byte on.
struct Curve(Vec<Sample>);

impl Curve {
    /// Samples of the target that contradict the ones before them are omitted.
    fn new(samples: &[Sample]) -> Self {
        let mut ordered: Vec<Sample> = Vec::new();
        for sample in samples {
            let is_later = ordered
                .last()
                .is_none_or(|last| sample.seconds > last.seconds && sample.bytes >= last.bytes);
            if sample.seconds.is_finite() && sample.bytes > 0 && is_later {
                ordered.push(*sample);
            }
        }
        Self(ordered)
    }

    /// Between two samples the bytes arrive evenly: those that arrive after a gap belong to the gap.
    fn bytes_at(&self, seconds: f64) -> f64 {
        let next = self.0.partition_point(|sample| sample.seconds <= seconds);
        let Some(before) = next.checked_sub(1).and_then(|index| self.0.get(index)) else {
            return 0.0;
        };
        let Some(after) = self.0.get(next) else {
            return before.bytes as f64;
        };
        let part = (seconds - before.seconds) / (after.seconds - before.seconds);
        before.bytes as f64 + part * (after.bytes - before.bytes) as f64
    }
}

/// A rate in bytes per second, with the digits that matter. The unit is 10^6 or 10^3 bytes.
pub(super) fn shown(rate: f64) -> String {
    match rate {
        10e6.. => format!("{:.0} MB/s", rate / 1e6),
        1e6.. => format!("{:.1} MB/s", rate / 1e6),
        1e3.. => format!("{:.0} kB/s", rate / 1e3),
        _ => "less than 1 kB/s".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MB: f64 = 1e6;

    /// Samples each 20 ms, for a rate in MB/s that depends on the time.
    fn samples(seconds: f64, rate: impl Fn(f64) -> f64) -> Vec<Sample> {
        let mut bytes = 0.0;
        let mut samples = Vec::new();
        for index in 0..=(seconds / 0.02) as u32 {
            let time = f64::from(index) * 0.02;
            bytes += rate(time) * MB * 0.02;
            samples.push(Sample {
                seconds: 0.3 + time,
                bytes: bytes as u64,
            });
        }
        samples
    }

    #[test]
    fn the_rate_is_that_of_the_path_after_the_start() {
        #[rustfmt::skip] // One row a line.
        #[allow(clippy::type_complexity)]
        let table: [(&str, f64, Box<dyn Fn(f64) -> f64>, [f64; 2], bool); 10] = [
            // Name, end of the samples, MB/s at a time, the expected range, whether it is growing.
            ("a constant rate", 3.0, Box::new(|_| 100.0), [99.0, 101.0], false),
            ("a slow path", 3.0, Box::new(|_| 0.2), [0.19, 0.21], false),
            ("a start of one second", 3.0, Box::new(|time| if time < 1.0 { 5.0 } else { 100.0 }), [99.0, 101.0], false),
            ("doubling with each round trip of 300 ms", 3.0, Box::new(|time| 0.05 * (time / 0.3).exp2()), [20.0, 51.2], true),
            ("a start that ends with the third quarter", 3.0, Box::new(|time| (0.05 * (time / 0.2).exp2()).min(110.0)), [100.0, 110.1], true),
            ("a slow growth after the start", 3.0, Box::new(|time| 10.0 + 10.0 * time), [30.0, 34.0], true),
            ("a token bucket: fast at first", 3.0, Box::new(|time| if time < 1.0 { 500.0 } else { 20.0 }), [19.0, 21.0], false),
            ("up and down by loss", 3.0, Box::new(|time| if (time * 2.0) as u32 % 2 == 0 { 10.0 } else { 30.0 }), [10.0, 30.0], false),
            ("queues after the time", 8.0, Box::new(|time| if time < 3.01 { 10.0 } else { 1000.0 }), [9.9, 10.1], false),
            ("a slow end of the queues", 9.0, Box::new(|time| if time < 3.01 { 10.0 } else { 0.1 }), [9.9, 10.1], false),
        ];
        for (name, end, rate, [least, most], is_growing) in table {
            let found = Rate::of(&samples(end, rate), 3.0).unwrap();
            let measured = found.bytes_per_second / MB;
            assert!((least..=most).contains(&measured), "{name}: {measured}");
            assert_eq!(found.is_growing, is_growing, "{name}");
        }
    }

    #[test]
    fn what_arrives_at_once_after_a_gap_belongs_to_the_gap() {
        // 10 MB/s, a lost packet from 1.2 s to 1.8 s, and everything behind it at 1.8 s.
        let mut with_gap = samples(3.0, |_| 10.0);
        with_gap.retain(|sample| !(1.5..2.1).contains(&sample.seconds));
        let rate = Rate::of(&with_gap, 3.0).unwrap();
        let measured = rate.bytes_per_second / MB;
        assert!((9.9..=10.1).contains(&measured), "{measured}");
        assert!(!rate.is_growing);
    }

    #[test]
    fn samples_without_a_rate_have_none() {
        let at = |seconds, bytes| Sample { seconds, bytes };
        #[rustfmt::skip] // One row a line.
        let table = [
            ("none", vec![]),
            ("no bytes", vec![at(0.0, 0), at(1.0, 0)]),
            ("one moment", vec![at(1.0, 5)]),
            ("no time", vec![at(1.0, 5), at(1.0, 9)]),
            ("nothing after the first bytes", vec![at(1.0, 5), at(2.0, 5), at(3.0, 5)]),
        ];
        for (name, samples) in table {
            assert_eq!(Rate::of(&samples, 3.0), None, "{name}");
        }
    }

    #[test]
    fn samples_that_contradict_the_ones_before_are_ignored() {
        let at = |seconds, bytes| Sample { seconds, bytes };
        let good = [at(0.0, 1), at(1.0, 1001), at(2.0, 2001), at(4.0, 4001)];
        let mut bad = good.to_vec();
        bad.insert(2, at(0.5, 9_000_000));
        bad.insert(3, at(1.5, 7));
        bad.insert(4, at(f64::NAN, 1500));
        bad.insert(5, at(f64::INFINITY, 1500));
        let rate = Rate::of(&good, 4.0).unwrap();
        assert_eq!(Rate::of(&bad, 4.0), Some(rate));
        assert!((rate.bytes_per_second - 1000.0).abs() < 1.0);
    }

    #[test]
    fn no_rate_is_shown_as_zero() {
        #[rustfmt::skip] // One row a line.
        let table = [
            (1234.4 * MB, "1234 MB/s"), (10.0 * MB, "10 MB/s"), (9.94 * MB, "9.9 MB/s"), (1.0 * MB, "1.0 MB/s"),
            (0.94 * MB, "940 kB/s"), (4321.0, "4 kB/s"), (1000.0, "1 kB/s"), (999.0, "less than 1 kB/s"),
        ];
        for (rate, text) in table {
            assert_eq!(shown(rate), text);
        }
    }
}
