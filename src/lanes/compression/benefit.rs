//! Whether compressing the data of a lane makes it faster: a pure state machine.

use std::time::Duration;

/// How long a lane is observed before a decision.
const PERIOD: Duration = Duration::from_millis(50);

/// The lane may be limited by its connection if it waits for it for one of so many parts of the time.
const MAY_HELP: u32 = 2;

/// The same while data is compressed, which takes a part of the time that the connection needs.
const STILL_LIMITED: u32 = 8;

/// Compressed data has to be smaller by one of so many parts.
const WORTH: u64 = 10;

/// How much faster the stream has to be if the connection is no longer the limit.
const FASTER: f64 = 1.1;

/// What remains of the best rate without compression in each later period: a connection that stalls for
/// one period is not a slow one.
const REMEMBERED: f64 = 0.8;

/// For how long data is compressed because of a comparison with that rate. The network may be faster by then.
const VALID: Duration = Duration::from_secs(30);

/// For how long data is sent as it is after compressing did not help. It doubles each time, up to the longest
/// one, so that trying takes little of a fast network. Directly after it has helped, and at the beginning,
/// there is no pause, but one period without compression: its rate is what the next trial is compared with.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a lane has done since it was last observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The time that has passed.
    pub(crate) elapsed: Duration,
    /// The part of it in which the connection did not take more.
    pub(crate) blocked: Duration,
    /// Bytes of the stream.
    pub(crate) plain: u64,
    /// The bytes that were sent for them.
    pub(crate) wire: u64,
}

impl Sent {
    fn add(&mut self, other: Self) {
        self.elapsed += other.elapsed;
        self.blocked += other.blocked;
        self.plain += other.plain;
        self.wire += other.wire;
    }

    /// Bytes of the stream in a second.
    #[allow(clippy::cast_precision_loss)]
    fn rate(&self) -> f64 {
        self.plain as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }
}

/// The state of the decision for one lane.
#[derive(Debug)]
pub(crate) struct Benefit {
    compresses: bool,
    period: Sent,
    /// The best rate of late without compression, before the present trial. Unknown at the beginning.
    plain_rate: Option<f64>,
    /// For how long data has been compressed only because that is faster than this rate.
    compared_for: Duration,
    /// The rest of the present pause, and the length of the next one.
    pause: Duration,
    next_pause: Duration,
}

impl Benefit {
    /// Begins with a trial, because on a slow network the first data fills the buffers of the connection.
    /// It goes on only if the connection is the limit: there is no rate yet to compare with.
    pub(crate) fn new() -> Self {
        Self {
            compresses: true,
            period: Sent::default(),
            plain_rate: None,
            compared_for: Duration::ZERO,
            pause: Duration::ZERO,
            next_pause: Duration::ZERO,
        }
    }

    /// Whether the next chunk shall be compressed.
    pub(crate) fn compresses(&self) -> bool {
        self.compresses
    }

    /// Evaluates what the lane has done.
    pub(crate) fn observe(&mut self, sent: Sent) {
        self.period.add(sent);
        if self.period.elapsed < PERIOD {
            return;
        }
        let period = std::mem::take(&mut self.period);
        if !self.compresses {
            self.pause = self.pause.saturating_sub(period.elapsed);
            let remembered = self.plain_rate.map_or(0.0, |rate| REMEMBERED * rate);
            self.plain_rate = Some(period.rate().max(remembered));
            self.compared_for = Duration::ZERO;
            self.compresses = self.pause.is_zero() && period.blocked >= period.elapsed / MAY_HELP;
        } else if self.has_helped(&period) {
            self.next_pause = Duration::ZERO;
        } else {
            self.compresses = false;
            self.pause = self.next_pause;
            self.next_pause = (2 * self.pause).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        }
    }

    fn has_helped(&mut self, period: &Sent) -> bool {
        if period.wire > period.plain - period.plain / WORTH {
            return false;
        }
        if period.blocked >= period.elapsed / STILL_LIMITED {
            self.compared_for = Duration::ZERO;
            return true;
        }
        self.compared_for += period.elapsed;
        let is_faster = |plain| period.rate() >= FASTER * plain;
        self.plain_rate.is_some_and(is_faster) && self.compared_for <= VALID
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = 128 << 10;

    /// A network, a core that compresses, and data: rates in MB/s of the stream's bytes, and the part of
    /// the bytes that compression leaves.
    struct Path {
        network: f64,
        core: f64,
        left: f64,
    }

    const SLOW: Path = Path {
        network: 12.0,
        core: 400.0,
        left: 0.5,
    };

    const FAST: Path = Path {
        network: 1200.0,
        ..SLOW
    };

    impl Path {
        /// Sends for a time, and returns the bytes of the stream in MB and the part of the time in which
        /// data was compressed.
        fn send(&self, benefit: &mut Benefit, seconds: f64) -> (f64, f64) {
            let (mut now, mut bytes, mut compressed) = (0.0, 0.0, 0.0);
            let chunk = CHUNK as f64 / 1e6;
            while now < seconds {
                let (work, wire) = match benefit.compresses() {
                    true => (chunk / self.core, self.left),
                    false => (0.0, 1.0),
                };
                // The connection sends one chunk while the next one is compressed.
                let network = chunk * wire / self.network;
                let elapsed = work.max(network);
                if benefit.compresses() {
                    compressed += elapsed;
                }
                benefit.observe(Sent {
                    elapsed: Duration::from_secs_f64(elapsed),
                    blocked: Duration::from_secs_f64(elapsed - work),
                    plain: CHUNK,
                    wire: (CHUNK as f64 * wire) as u64,
                });
                now += elapsed;
                bytes += chunk;
            }
            (bytes / now, compressed / now)
        }
    }

    #[test]
    fn data_is_compressed_where_that_makes_the_stream_faster_and_only_there() {
        #[rustfmt::skip] // One row a line.
        let table = [
            ("a slow network", SLOW, 1.9),
            ("a slow network, and data that hardly compresses", Path { left: 0.95, ..SLOW }, 0.99),
            ("a fast network", FAST, 0.97),
            ("a network as fast as the core", Path { network: 400.0, core: 400.0, left: 0.5 }, 0.97),
            ("a network that the core outruns only with compression", Path { network: 250.0, core: 400.0, left: 0.5 }, 1.5),
        ];
        for (what, path, expected) in table {
            let mut benefit = Benefit::new();
            let (rate, _) = path.send(&mut benefit, 30.0);
            assert!(rate >= expected * path.network, "{what}: {rate}");
        }
    }

    #[test]
    fn the_first_data_is_compressed() {
        let (_, compressed) = SLOW.send(&mut Benefit::new(), 1.0);
        assert!(compressed > 0.999, "{compressed}");
    }

    /// The core that compresses is then the limit, and not the connection.
    #[test]
    fn data_that_compresses_very_well_is_compressed_almost_always() {
        let slow = Path { left: 0.01, ..SLOW };
        let (rate, compressed) = slow.send(&mut Benefit::new(), 1.0);
        assert!(compressed > 0.9, "{compressed}");
        assert!(rate > 0.9 * slow.core, "{rate}");
    }

    #[test]
    fn a_pause_of_the_source_does_not_end_it() {
        let mut benefit = Benefit::new();
        for _ in 0..10 {
            SLOW.send(&mut benefit, 1.0);
            benefit.observe(Sent {
                elapsed: 4 * PERIOD,
                blocked: Duration::ZERO,
                plain: CHUNK,
                wire: CHUNK / 2,
            });
            let (_, compressed) = SLOW.send(&mut benefit, 1.0);
            assert!(compressed > 0.9, "{compressed}");
        }
    }

    /// Also if the core that compresses is the limit, so that nothing shows what the network could take.
    #[test]
    fn a_network_that_becomes_fast_gets_data_as_it_is() {
        for left in [0.01, 0.5] {
            let mut benefit = Benefit::new();
            Path { left, ..SLOW }.send(&mut benefit, 10.0);
            let (_, compressed) = Path { left, ..FAST }.send(&mut benefit, 300.0);
            assert!(compressed < 0.15, "{left}: {compressed}");
        }
    }

    #[test]
    fn a_stall_of_a_fast_network_does_not_begin_it() {
        let mut benefit = Benefit::new();
        FAST.send(&mut benefit, 30.0);
        for stall in [1, 4, 40] {
            benefit.observe(Sent {
                elapsed: stall * PERIOD,
                blocked: stall * PERIOD,
                plain: CHUNK,
                wire: CHUNK,
            });
            let (_, compressed) = FAST.send(&mut benefit, 30.0);
            assert!(compressed < 0.01, "{stall}: {compressed}");
        }
    }

    #[test]
    fn a_lane_that_waits_for_its_source_does_not_compress() {
        let mut benefit = Benefit::new();
        for _ in 0..100 {
            benefit.observe(Sent {
                elapsed: PERIOD,
                blocked: PERIOD / 3,
                plain: CHUNK,
                wire: CHUNK,
            });
            assert!(!benefit.compresses());
        }
    }

    #[test]
    fn it_is_tried_again_later_and_rarely() {
        let mut benefit = Benefit::new();
        let (_, first) = FAST.send(&mut benefit, 4.0);
        assert!(first > 0.0 && first < 0.05, "{first}");
        FAST.send(&mut benefit, 60.0);
        let (_, later) = FAST.send(&mut benefit, 60.0);
        assert!(later > 0.0 && later < 0.005, "{later}");
        // The network becomes slow.
        let (_, part) = SLOW.send(&mut benefit, 100.0);
        assert!(part > 0.6, "{part}");
    }
}
