//! The decision: from samples of a connection to changes of its socket.

#[cfg(test)]
mod tests;

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
        let is_full = before.is_send_buffer_full() && now.is_send_buffer_full();
        if !is_full && (limited < elapsed / LIMITED_SHARE || limited.is_zero()) {
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
