//! The decision: from samples of a connection to changes of its socket.

use super::loss::Loss;
use super::sample::Sample;
use super::settings::{Buffer, Congestion, Settings};
use crate::system::tcp_options::BufferSizes;
use std::fmt;
use std::time::Duration;

/// The factor by which a buffer grows that was too small. From the kernel's 4 MiB to the limit are two
/// steps.
const GROWTH: usize = 4;

/// A buffer is not changed for less than a quarter more.
const MIN_GROWTH: usize = 4;

/// One of how many parts of the time the send buffer has to be the limit before it grows.
const LIMITED_SHARE: u32 = 10;

/// A change of a socket, with the reason for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    SendBuffer { bytes: usize, reason: String },
    ReceiveBuffer { bytes: usize, reason: String },
    CongestionControl { name: &'static str, reason: String },
}

/// The state of the decision for one connection.
#[derive(Debug)]
pub(super) struct Tuner {
    settings: Settings,
    /// The size up to which the kernel grows a receive buffer by itself.
    receive_limit: Option<usize>,
    /// The sizes that were set; zero for a buffer that is the kernel's.
    forced: BufferSizes,
    before: Option<Sample>,
    loss: Loss,
    /// The congestion control may still be changed.
    undecided: bool,
}

impl Tuner {
    pub(super) fn new(settings: Settings, receive_limit: Option<usize>) -> Self {
        Self {
            settings,
            receive_limit,
            forced: BufferSizes::default(),
            before: None,
            loss: Loss::default(),
            undecided: settings.congestion == Congestion::Auto,
        }
    }

    /// The changes before data moves. `lossy`: an earlier connection of this path has shown loss.
    pub(super) fn begin(&mut self, lossy: bool) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Buffer::Bytes(bytes) = self.settings.buffer {
            let bytes = bytes as usize;
            let reason = || "it is configured".to_owned();
            changes.push(Change::SendBuffer {
                bytes,
                reason: reason(),
            });
            changes.push(Change::ReceiveBuffer {
                bytes,
                reason: reason(),
            });
        }
        let congestion = match self.settings.congestion {
            Congestion::Auto if lossy => Some((
                "bbr",
                "an earlier connection of this migration lost segments",
            )),
            Congestion::Bbr => Some(("bbr", "it is configured")),
            Congestion::Cubic => Some(("cubic", "it is configured")),
            Congestion::Auto | Congestion::System => None,
        };
        if let Some((name, reason)) = congestion {
            self.undecided = false;
            changes.push(Change::CongestionControl {
                name,
                reason: reason.to_owned(),
            });
        }
        changes
    }

    /// Whether a sample can have an effect on this connection.
    pub(super) fn needs_samples(&self) -> bool {
        self.undecided || self.settings.buffer == Buffer::Auto
    }

    /// The bytes of the buffers that were set by this decision and not by the administrator.
    pub(super) fn requested(&self) -> usize {
        match self.settings.buffer {
            Buffer::Auto => self.forced.send + self.forced.receive,
            _ => 0,
        }
    }

    /// The kernel has refused to change a buffer, so no further change is requested.
    pub(super) fn leave_buffers(&mut self) {
        self.settings.buffer = Buffer::System;
    }

    /// The same for the congestion control.
    pub(super) fn leave_congestion_control(&mut self) {
        self.undecided = false;
    }

    /// The changes after a sample. Both buffers together may have `allowance` bytes.
    pub(super) fn observe(&mut self, sample: Sample, allowance: usize) -> Vec<Change> {
        let Some(before) = self.before.replace(sample) else {
            return Vec::new();
        };
        if !sample.is_far() {
            return Vec::new();
        }
        let mut changes = Vec::new();
        if self.settings.buffer == Buffer::Auto {
            changes.extend(self.send_buffer(&before, &sample, allowance));
            changes.extend(self.receive_buffer(&before, &sample, allowance));
        }
        if self.undecided {
            changes.extend(self.congestion_control(&before, &sample));
        }
        changes
    }

    /// Grows the send buffer if it was the limit.
    fn send_buffer(&mut self, before: &Sample, now: &Sample, allowance: usize) -> Option<Change> {
        let elapsed = now.at.saturating_duration_since(before.at);
        let limited = now
            .info
            .buffer_limited
            .saturating_sub(before.info.buffer_limited);
        if limited < elapsed / LIMITED_SHARE || limited.is_zero() {
            return None;
        }
        let size = now.buffers.send;
        let most = allowance.saturating_sub(self.forced.receive);
        let bytes = grown(size, most)?;
        self.forced.send = bytes;
        Some(Change::SendBuffer {
            bytes,
            reason: format!(
                "its {} were full, and the path could carry more (round trip {})",
                Mebibytes(size),
                Milliseconds(now.info.round_trip)
            ),
        })
    }

    /// Grows the receive buffer if the kernel has grown it to its limit, and the data of one round trip
    /// needs all of it.
    fn receive_buffer(
        &mut self,
        before: &Sample,
        now: &Sample,
        allowance: usize,
    ) -> Option<Change> {
        let size = now.buffers.receive;
        let limit = self.receive_limit?;
        if size < limit || now.unread > size / 4 {
            return None;
        }
        let elapsed = now.at.saturating_duration_since(before.at);
        let received = now
            .info
            .bytes_received
            .saturating_sub(before.info.bytes_received);
        let round_trip = now.info.min_round_trip?;
        // The window is 50 to 90 % of the buffer.
        let of_round_trip = received.checked_mul(u64::try_from(round_trip.as_micros()).ok()?)?
            / u64::try_from(elapsed.as_micros()).ok()?.max(1);
        if of_round_trip < size as u64 * 2 / 5 {
            return None;
        }
        // A larger buffer has no effect: the largest window was fixed when the connection was opened.
        let largest_window = usize::from(u16::MAX) << now.info.receive_scale.min(14);
        let most = allowance.saturating_sub(self.forced.send);
        let bytes = grown(size, most.min(2 * largest_window))?;
        self.forced.receive = bytes;
        Some(Change::ReceiveBuffer {
            bytes,
            reason: format!(
                "the data of one round trip ({}) filled its {}",
                Milliseconds(round_trip),
                Mebibytes(size)
            ),
        })
    }

    /// Selects BBR if loss shows.
    fn congestion_control(&mut self, before: &Sample, now: &Sample) -> Option<Change> {
        let share = self.loss.observe(before, now)?;
        self.undecided = false;
        Some(Change::CongestionControl {
            name: "bbr",
            reason: format!(
                "{:.2} % of the segments were lost (round trip {})",
                share * 100.0,
                Milliseconds(now.info.round_trip)
            ),
        })
    }
}

/// The size that follows `size`, at most `most`. None if that is not worth a change.
fn grown(size: usize, most: usize) -> Option<usize> {
    let bytes = size.saturating_mul(GROWTH).min(most);
    (bytes >= size + size / MIN_GROWTH).then_some(bytes)
}

/// A size for messages.
pub(super) struct Mebibytes(pub(super) usize);

impl fmt::Display for Mebibytes {
    #[allow(clippy::cast_precision_loss)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB", self.0 as f64 / f64::from(1 << 20))
    }
}

/// A time for messages.
struct Milliseconds(Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::super::recorded;
    use super::*;
    use crate::system::tcp_info::TcpInfo;
    use std::time::Instant;

    const MIB: usize = 1 << 20;

    /// A second on a path with this round trip: the send buffer was the limit for that part of it.
    fn second(
        tuner: &mut Tuner,
        sample: &mut Sample,
        limited: f64,
        allowance: usize,
    ) -> Vec<Change> {
        sample.at += Duration::from_secs(1);
        sample.info.buffer_limited += Duration::from_secs_f64(limited);
        tuner.observe(*sample, allowance)
    }

    fn sample(round_trip: Duration) -> Sample {
        Sample {
            at: Instant::now(),
            info: TcpInfo {
                round_trip,
                min_round_trip: Some(round_trip),
                receive_scale: 10,
                ..TcpInfo::default()
            },
            buffers: BufferSizes {
                send: 4 * MIB,
                receive: 6 * MIB,
            },
            unread: 0,
        }
    }

    fn auto() -> Tuner {
        Tuner::new(Settings::default(), Some(6 * MIB))
    }

    fn send_buffer(changes: &[Change]) -> Option<usize> {
        match changes {
            [] => None,
            [Change::SendBuffer { bytes, .. }] => Some(*bytes),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_send_buffer_grows_while_it_is_the_limit_of_a_long_path() {
        const ALL: usize = 64 * MIB;
        for (what, milliseconds, seconds, allowance, expected) in [
            ("never the limit", 40, vec![0.0; 4], ALL, vec![]),
            ("the limit now and then", 40, vec![0.09; 4], ALL, vec![]),
            (
                "the limit all the time",
                40,
                vec![0.9; 4],
                ALL,
                vec![16, 64],
            ),
            ("the limit at first", 40, vec![0.9, 0.0, 0.0], ALL, vec![16]),
            ("a local network", 2, vec![0.9; 4], ALL, vec![]),
            ("many connections", 40, vec![0.9; 4], 10 * MIB, vec![10]),
            ("too many connections", 40, vec![0.9; 4], 4 * MIB, vec![]),
            (
                "hardly more is left",
                40,
                vec![0.9; 4],
                20 * MIB,
                vec![16, 20],
            ),
        ] {
            let mut tuner = auto();
            let mut now = sample(Duration::from_millis(milliseconds));
            assert_eq!(tuner.begin(false), []);
            assert_eq!(tuner.observe(now, allowance), []);
            let mut sizes = Vec::new();
            for limited in seconds {
                let changes = second(&mut tuner, &mut now, limited, allowance);
                if let Some(bytes) = send_buffer(&changes) {
                    now.buffers.send = bytes;
                    sizes.push(bytes / MIB);
                    assert_eq!(tuner.requested(), bytes, "{what}");
                }
            }
            assert_eq!(sizes, expected, "{what}");
        }
    }

    #[test]
    fn the_reason_of_a_larger_buffer_has_its_figures() {
        let mut tuner = auto();
        let mut now = sample(Duration::from_millis(40));
        tuner.observe(now, 64 * MIB);
        let changes = second(&mut tuner, &mut now, 0.9, 64 * MIB);
        let reason = "its 4.0 MiB were full, and the path could carry more (round trip 40.0 ms)";
        let expected = Change::SendBuffer {
            bytes: 16 * MIB,
            reason: reason.to_owned(),
        };
        assert_eq!(changes, [expected]);
    }

    #[test]
    fn the_receive_buffer_grows_if_a_round_trip_fills_the_kernels_largest_one() {
        for (what, change, expected) in [
            (
                "full",
                (&|_: &mut Sample| {}) as &dyn Fn(&mut Sample),
                Some(24),
            ),
            (
                "the kernel has not grown it",
                &|now| now.buffers.receive = 5 * MIB,
                None,
            ),
            (
                "the program does not read",
                &|now| now.unread = 3 * MIB,
                None,
            ),
            ("less data", &|now| now.info.bytes_received /= 2, None),
            (
                "a window of 1 MiB at most",
                &|now| now.info.receive_scale = 4,
                None,
            ),
            (
                "a window of 8 MiB at most",
                &|now| now.info.receive_scale = 7,
                Some(15),
            ),
        ] {
            let mut tuner = auto();
            let mut now = sample(Duration::from_millis(100));
            tuner.observe(now, 64 * MIB);
            now.at += Duration::from_secs(1);
            now.info.bytes_received = 40 << 20;
            change(&mut now);
            let sizes: Vec<usize> = tuner
                .observe(now, 64 * MIB)
                .into_iter()
                .map(|change| match change {
                    Change::ReceiveBuffer { bytes, .. } => bytes / MIB,
                    other => panic!("{what}: {other:?}"),
                })
                .collect();
            assert_eq!(sizes, Vec::from_iter(expected), "{what}");
        }
    }

    #[test]
    fn what_is_configured_is_set_at_once_and_nothing_else() {
        let settings = |congestion, buffer| Settings { congestion, buffer };
        let congestion = |change: &Change| match change {
            Change::CongestionControl { name, .. } => (*name).to_owned(),
            Change::SendBuffer { bytes, .. } => format!("send {bytes}"),
            Change::ReceiveBuffer { bytes, .. } => format!("receive {bytes}"),
        };
        let system = Buffer::System;
        for (settings, lossy, expected, samples) in [
            (settings(Congestion::System, system), true, vec![], false),
            (settings(Congestion::Auto, system), false, vec![], true),
            (settings(Congestion::Auto, system), true, vec!["bbr"], false),
            (settings(Congestion::Bbr, system), false, vec!["bbr"], false),
            (
                settings(Congestion::Cubic, system),
                true,
                vec!["cubic"],
                false,
            ),
            (
                settings(Congestion::System, Buffer::Bytes(65_536)),
                true,
                vec!["send 65536", "receive 65536"],
                false,
            ),
            (
                settings(Congestion::System, Buffer::Auto),
                true,
                vec![],
                true,
            ),
        ] {
            let mut tuner = Tuner::new(settings, Some(6 * MIB));
            let changes: Vec<String> = tuner.begin(lossy).iter().map(congestion).collect();
            assert_eq!(changes, expected, "{settings:?}");
            assert_eq!(tuner.needs_samples(), samples, "{settings:?}");
            assert_eq!(tuner.requested(), 0, "{settings:?}");
        }
    }

    #[test]
    fn nothing_is_requested_again_after_the_kernel_has_refused_it() {
        let mut tuner = auto();
        let mut now = sample(Duration::from_millis(40));
        tuner.observe(now, 64 * MIB);
        assert!(!second(&mut tuner, &mut now, 0.9, 64 * MIB).is_empty());
        tuner.leave_buffers();
        assert_eq!(tuner.requested(), 0);
        assert_eq!(second(&mut tuner, &mut now, 0.9, 64 * MIB), []);
        assert!(tuner.needs_samples());
        tuner.leave_congestion_control();
        assert!(!tuner.needs_samples());
    }

    /// The changes of a recorded connection, with their times in ms.
    fn replay(recording: &str) -> Vec<(u128, String)> {
        let start = Instant::now();
        let mut tuner = auto();
        let mut changes = Vec::new();
        for sample in recorded::samples(recording, start) {
            for change in tuner.observe(sample, 64 * MIB) {
                let name = match change {
                    Change::SendBuffer { bytes, .. } => format!("send {}", bytes / MIB),
                    Change::ReceiveBuffer { bytes, .. } => format!("receive {}", bytes / MIB),
                    Change::CongestionControl { name, .. } => name.to_owned(),
                };
                changes.push(((sample.at - start).as_millis(), name));
            }
        }
        changes
    }

    #[test]
    fn each_kind_of_path_gets_what_it_needs() {
        for (what, recording, expected) in [
            (
                "a local network",
                include_str!("recorded/local.txt"),
                &[][..],
            ),
            (
                "a local network with 1 % loss",
                include_str!("recorded/lossy-local.txt"),
                &[],
            ),
            ("10 ms", include_str!("recorded/10ms.txt"), &[]),
            (
                "40 ms",
                include_str!("recorded/40ms.txt"),
                &["send 16", "send 64"],
            ),
            (
                "100 ms",
                include_str!("recorded/100ms.txt"),
                &["send 16", "send 64"],
            ),
            (
                "20 ms and 1 % loss",
                include_str!("recorded/lossy.txt"),
                &["bbr", "send 16", "send 64"],
            ),
            (
                "20 ms and 0.02 % loss",
                include_str!("recorded/slightly-lossy.txt"),
                &["bbr", "send 16"],
            ),
            (
                "40 ms and a program that reads 5 MB/s",
                include_str!("recorded/slow-reader.txt"),
                &["send 16"],
            ),
            (
                "20 ms and 50 Mbit/s",
                include_str!("recorded/slow-link.txt"),
                &[],
            ),
            (
                "40 ms, 1 % loss, and a program that writes 1 MB/s",
                include_str!("recorded/idle.txt"),
                &["bbr"],
            ),
        ] {
            let changes = replay(recording);
            let names: Vec<&str> = changes.iter().map(|(_, name)| &**name).collect();
            assert_eq!(names, expected, "{what}: {changes:?}");
            // Within the time in which a guest of 1 GiB is moved.
            assert!(
                changes.iter().all(|(at, _)| *at < 3000),
                "{what}: {changes:?}"
            );
        }
    }
}
