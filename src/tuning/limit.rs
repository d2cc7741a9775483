//! What limits the data that a connection sends.

use super::sample::Sample;
use std::time::Duration;

/// What limits a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Packets are lost while the queues of the path are short.
    Loss,
    /// A buffer of this node, or the window of the target's node, is too small for the path.
    Window,
    /// The rate of the network, or of this node's share of it.
    Rate,
    /// This process was always busy, or waited for a core.
    Core,
    /// The local program writes more slowly than the connection could send.
    Source,
    /// The target's program reads more slowly than the connection could deliver.
    Target,
}

impl Limit {
    /// All of them, in the order of [`LimitTimes`].
    pub(crate) const ALL: [Self; 6] = [
        Self::Loss,
        Self::Window,
        Self::Rate,
        Self::Core,
        Self::Source,
        Self::Target,
    ];

    /// Its name for programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Window => "window",
            Self::Rate => "rate",
            Self::Core => "core",
            Self::Source => "source",
            Self::Target => "target",
        }
    }

    /// What it is, for people.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Loss => "the loss of packets",
            Self::Window => "the window or the buffers of TCP",
            Self::Rate => "the rate of the network",
            Self::Core => "a core of this node",
            Self::Source => "the reading at the source",
            Self::Target => "the writing at the target",
        }
    }
}

/// The share of the time that this process is busy at which a core is the limit.
const BUSY: f64 = 0.9;

/// One of how many lost segments shows loss.
const LOST_SHARE: u32 = 10_000;

/// One of how many parts of the time the peer's window has to be the limit, and the send buffer. After
/// a full buffer has become empty, the kernel does not count the time in which it is filled again.
const WINDOW_LIMITED: u32 = 2;
const BUFFER_LIMITED: u32 = 5;

/// The part of the largest window that the data of a round trip fills if the window is the limit. A
/// slow program leaves more of it: the kernel makes the window twice as large as what the program reads
/// in a round trip.
const FULL_WINDOW: f64 = 0.7;

/// Which limit applied between two samples. `busy` is the share of the time in which this process was
/// busy or waited for a core, and `largest_window` the largest window of the peer so far, in bytes. None
/// if nothing was sent.
pub(super) fn limit(
    before: &Sample,
    now: &Sample,
    busy: f64,
    largest_window: u32,
) -> Option<Limit> {
    let elapsed = now.at.saturating_duration_since(before.at);
    let since = |time: fn(&Sample) -> Duration| time(now).saturating_sub(time(before));
    let sending = since(|sample| sample.info.busy);
    if sending.is_zero() {
        return None;
    }
    if busy >= BUSY {
        return Some(Limit::Core);
    }
    let window = since(|sample| sample.info.window_limited);
    let buffer = since(|sample| sample.info.buffer_limited);
    if window >= elapsed / WINDOW_LIMITED {
        return Some(of_window(before, now, largest_window));
    }
    if buffer >= elapsed / BUFFER_LIMITED || now.is_send_buffer_full() {
        return Some(Limit::Window);
    }
    if now.info.unsent == 0 || now.info.app_limited {
        return Some(Limit::Source);
    }
    let segments = now
        .info
        .data_segments_sent
        .wrapping_sub(before.info.data_segments_sent);
    let lost = now
        .info
        .retransmitted
        .wrapping_sub(before.info.retransmitted);
    Some(match lost > segments / LOST_SHARE && !now.is_queue_long() {
        true => Limit::Loss,
        false => Limit::Rate,
    })
}

/// Why the window of the peer is the limit: it is small, or the program there does not read.
#[allow(clippy::cast_precision_loss)]
fn of_window(before: &Sample, now: &Sample, largest_window: u32) -> Limit {
    let elapsed = now.at.saturating_duration_since(before.at).as_secs_f64();
    let acked = now.info.bytes_acked.saturating_sub(before.info.bytes_acked);
    // On busy nodes answers come late. That is no property of the path, which the window has to fill.
    let round_trip = now.info.min_round_trip.unwrap_or(now.info.round_trip);
    let of_round_trip = acked as f64 / elapsed.max(1e-6) * round_trip.as_secs_f64();
    match of_round_trip >= f64::from(largest_window) * FULL_WINDOW {
        true => Limit::Window,
        false => Limit::Target,
    }
}

/// For how long each limit has applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LimitTimes([Duration; Limit::ALL.len()]);

impl LimitTimes {
    pub(crate) fn add(&mut self, limit: Limit, time: Duration) {
        for (known, sum) in Limit::ALL.into_iter().zip(&mut self.0) {
            if known == limit {
                *sum += time;
            }
        }
    }

    /// The times with their limits.
    pub(crate) fn each(&self) -> impl Iterator<Item = (Limit, Duration)> {
        Limit::ALL.into_iter().zip(self.0)
    }

    /// For how long this limit has applied.
    pub(crate) fn of(&self, limit: Limit) -> Duration {
        self.each()
            .find_map(|(known, time)| (known == limit).then_some(time))
            .unwrap_or_default()
    }

    /// The sum of two.
    pub(crate) fn plus(mut self, other: Self) -> Self {
        for (limit, time) in other.each() {
            self.add(limit, time);
        }
        self
    }

    /// The times after `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        let mut times = self.0;
        for (time, before) in times.iter_mut().zip(before.0) {
            *time = time.saturating_sub(before);
        }
        Self(times)
    }

    /// The limit that has applied for the longest time. None if nothing was sent.
    pub(crate) fn main(&self) -> Option<Limit> {
        let longest = self.each().max_by_key(|(_, time)| *time)?;
        (!longest.1.is_zero()).then_some(longest.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::tcp_info::TcpInfo;
    use crate::system::tcp_options::BufferSizes;
    use std::time::Instant;

    /// One second on a path of 40 ms that carried 100 MB: data waits, nothing is lost.
    struct Second {
        busy: f64,
        sending: f64,
        window: f64,
        buffer: f64,
        acked: u64,
        lost: u32,
        round_trip: u64,
        unsent: u32,
        app_limited: bool,
        queued: usize,
        largest_window: u32,
    }

    const SECOND: Second = Second {
        busy: 0.3,
        sending: 1.0,
        window: 0.0,
        buffer: 0.0,
        acked: 100_000_000,
        lost: 0,
        round_trip: 40,
        unsent: 100_000,
        app_limited: false,
        queued: 3 << 20,
        largest_window: 16 << 20,
    };

    impl Second {
        fn limit(&self) -> Option<Limit> {
            let before = Sample {
                at: Instant::now(),
                info: TcpInfo {
                    min_round_trip: Some(Duration::from_millis(40)),
                    ..TcpInfo::default()
                },
                buffers: BufferSizes {
                    send: 4 << 20,
                    receive: 0,
                },
                queued: 0,
                unread: 0,
            };
            let mut now = before;
            now.at += Duration::from_secs(1);
            now.info.busy = Duration::from_secs_f64(self.sending);
            now.info.window_limited = Duration::from_secs_f64(self.window);
            now.info.buffer_limited = Duration::from_secs_f64(self.buffer);
            now.info.bytes_acked = self.acked;
            now.info.data_segments_sent = u32::try_from(self.acked / 1400).unwrap_or(u32::MAX);
            now.info.retransmitted = self.lost;
            now.info.round_trip = Duration::from_millis(self.round_trip);
            now.info.unsent = self.unsent;
            now.info.app_limited = self.app_limited;
            now.queued = self.queued;
            limit(&before, &now, self.busy, self.largest_window)
        }
    }

    #[test]
    fn each_limit_is_recognized() {
        #[rustfmt::skip] // One row a line.
        let table = [
            ("nothing was sent", Second { sending: 0.0, acked: 0, ..SECOND }, None),
            ("data waits", SECOND, Some(Limit::Rate)),
            ("loss and a short queue", Second { acked: 1_000_000, lost: 7, ..SECOND }, Some(Limit::Loss)),
            ("loss and a long queue", Second { acked: 1_000_000, lost: 7, round_trip: 80, ..SECOND }, Some(Limit::Rate)),
            ("hardly any loss", Second { lost: 7, ..SECOND }, Some(Limit::Rate)),
            ("a busy process", Second { busy: 0.95, ..SECOND }, Some(Limit::Core)),
            ("a busy process that leaves the connection idle", Second { busy: 0.95, unsent: 0, ..SECOND }, Some(Limit::Core)),
            ("no data waits", Second { unsent: 0, queued: 2 << 20, ..SECOND }, Some(Limit::Source)),
            ("a full send buffer that the kernel does not count", Second { unsent: 0, app_limited: true, ..SECOND }, Some(Limit::Window)),
            ("the program had no data", Second { app_limited: true, ..SECOND }, Some(Limit::Source)),
            ("a full send buffer", Second { buffer: 0.45, unsent: 0, ..SECOND }, Some(Limit::Window)),
            ("a send buffer that is full now and then", Second { buffer: 0.1, ..SECOND }, Some(Limit::Rate)),
            ("a full window, by one round trip", Second { window: 0.9, acked: 25_000_000, largest_window: 1 << 20, ..SECOND }, Some(Limit::Window)),
            ("a full window, by a slow program", Second { window: 0.9, acked: 25_000_000, largest_window: 2 << 20, ..SECOND }, Some(Limit::Target)),
            ("a full window, by a slow program on a busy node", Second { window: 0.9, acked: 2_000_000, round_trip: 400, largest_window: 1 << 19, ..SECOND }, Some(Limit::Target)),
            ("a closed window", Second { window: 1.0, acked: 0, ..SECOND }, Some(Limit::Target)),
        ];
        for (what, second, expected) in table {
            assert_eq!(second.limit(), expected, "{what}");
        }
    }

    #[test]
    fn the_longest_time_is_the_main_limit() {
        let mut times = LimitTimes::default();
        assert_eq!(times.main(), None);
        times.add(Limit::Source, Duration::from_secs(2));
        times.add(Limit::Loss, Duration::from_secs(1));
        let before = times;
        assert_eq!(times.main(), Some(Limit::Source));
        times.add(Limit::Loss, Duration::from_secs(2));
        assert_eq!(times.main(), Some(Limit::Loss));
        assert_eq!(times.since(before).main(), Some(Limit::Loss));
        let twice = times.plus(times);
        assert!(twice.each().all(|(limit, time)| {
            times
                .each()
                .any(|(other, half)| other == limit && half * 2 == time)
        }));
    }
}
