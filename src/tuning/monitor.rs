//! Sampling of a connection while it is open, and the changes of its socket.

use super::budget::{Budget, Share};
use super::limit::{Limit, limit};
use super::sample::Sample;
use super::settings::Settings;
use super::tuner::{Change, Mebibytes, Tuner};
use crate::system::core_time::busy_time;
use crate::system::readiness::{unacknowledged, unread};
use crate::system::tcp_info::TcpInfo;
use crate::system::tcp_options::{
    BufferSizes, congestion_control, force_receive_buffer, force_send_buffer, limit_unsent,
    receive_buffer_limit, set_congestion_control,
};
use std::fmt::{self, Display};
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Longest interval between two samples.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// The interval on a path that is tuned, while data begins to move.
const FIRST_INTERVAL: Duration = Duration::from_millis(100);

/// The number of those intervals.
const FIRST_SAMPLES: u32 = 100;

/// The most data that may wait in an enlarged send buffer without having been sent, in bytes: as much
/// as the kernel's own largest send buffer holds (`net.ipv4.tcp_wmem`).
const UNSENT_LIMIT: u32 = 4 << 20;

/// The same for a connection that carries a stream together with others: one of so many parts of the
/// data in flight, and at least so many bytes. Data that waits in it delays the whole stream, while
/// another one could send it at once. With less, a fast connection would run dry before it is filled
/// again.
const UNSENT_PART_OF_LANE: u32 = 4;
const MIN_UNSENT_OF_LANE: u32 = 256 << 10;

/// What is reported about a connection.
pub(crate) trait Observer: Send + Sync {
    /// A change of the socket, for the log.
    fn socket_changed(&self, text: &dyn Display);
    /// This has limited what the connection sends, for that time.
    fn limited_by(&self, limit: Limit, time: Duration, state: State);
    /// A lane of the connection was opened again or has failed, for the log.
    fn lane_changed(&self, _text: &dyn Display) {}
}

/// The state of a connection when its limit is reported.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct State {
    /// Bytes that were sent and not acknowledged.
    pub(crate) in_flight: usize,
    /// The congestion control holds the connection back: it is one that reacts to loss, and nothing waits
    /// in the queues of the path. BBR sends at the rate of the path in spite of loss, and needs no others.
    pub(crate) is_held_back: bool,
    /// The socket was adapted to the path just now, so what limited it before may not limit it any more.
    pub(crate) is_adapted: bool,
}

/// What the connections of one migration share: the settings of their network, and what was found out
/// about its path and this node.
#[derive(Debug)]
pub(crate) struct Tuning {
    settings: Settings,
    budget: Arc<Budget>,
    receive_limit: OnceLock<Option<usize>>,
    /// A connection has shown loss.
    is_lossy: AtomicBool,
    /// The kernel has refused a change, and that was logged.
    buffers_refused: AtomicBool,
    congestion_control_refused: AtomicBool,
}

impl Tuning {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            budget: Arc::default(),
            receive_limit: OnceLock::new(),
            is_lossy: AtomicBool::new(false),
            buffers_refused: AtomicBool::new(false),
            congestion_control_refused: AtomicBool::new(false),
        }
    }

    /// The size up to which the kernel grows a receive buffer by itself.
    fn receive_limit(&self) -> Option<usize> {
        *self.receive_limit.get_or_init(receive_buffer_limit)
    }

    /// A monitor for one connection.
    pub(crate) fn monitor<'a>(&'a self, observer: &'a dyn Observer) -> Monitor<'a> {
        Monitor {
            tuning: self,
            observer,
            lanes: None,
        }
    }
}

/// Samples one connection.
#[derive(Clone, Copy)]
pub(crate) struct Monitor<'a> {
    tuning: &'a Tuning,
    observer: &'a dyn Observer,
    lanes: Option<LaneCount<'a>>,
}

/// Returns the number of connections that carry a stream at present.
type LaneCount<'a> = &'a (dyn Fn() -> usize + Sync);

impl<'a> Monitor<'a> {
    /// For a connection that carries a stream together with others.
    pub(crate) fn of_lane(self, lanes: LaneCount<'a>) -> Self {
        Self {
            lanes: Some(lanes),
            ..self
        }
    }

    /// Samples the connection until `judge` returns a result, at least once in `interval`.
    ///
    /// Does not return if the kernel does not report the state of the connection.
    pub(crate) async fn run<T>(
        self,
        socket: impl AsFd,
        interval: Duration,
        mut judge: impl FnMut(&TcpInfo, Instant) -> Option<T>,
    ) -> T {
        let socket = socket.as_fd();
        let mut connection = Connection::new(self, socket);
        loop {
            sleep(connection.next_interval(interval)).await;
            let Ok(sample) = sample(socket) else {
                return pending().await;
            };
            if let Some(result) = judge(&sample.info, sample.at) {
                return result;
            }
            connection.observe(sample);
        }
    }
}

/// The state of a sampled connection.
struct Connection<'a> {
    tuning: &'a Tuning,
    observer: &'a dyn Observer,
    socket: BorrowedFd<'a>,
    lanes: Option<LaneCount<'a>>,
    /// The most data that may wait without having been sent, in bytes. None if the kernel's default, which
    /// is no limit, was not changed.
    unsent_limit: Option<u32>,
    tuner: Tuner,
    share: Share,
    /// The last sample, and how long this thread had been busy then. None before the first one.
    before: Option<(Sample, Duration)>,
    /// The largest window of the peer so far, in bytes.
    largest_window: u32,
    /// Short intervals that are left, and whether the next one is short.
    first_samples: u32,
    is_starting: bool,
}

impl<'a> Connection<'a> {
    fn new(monitor: Monitor<'a>, socket: BorrowedFd<'a>) -> Self {
        let Monitor {
            tuning,
            observer,
            lanes,
        } = monitor;
        let mut connection = Self {
            tuning,
            observer,
            socket,
            lanes,
            unsent_limit: None,
            tuner: Tuner::new(tuning.settings, tuning.receive_limit()),
            share: tuning.budget.share(),
            before: None,
            largest_window: 0,
            first_samples: FIRST_SAMPLES,
            is_starting: false,
        };
        let changes = connection
            .tuner
            .begin(tuning.is_lossy.load(Ordering::Relaxed));
        connection.apply_all(changes);
        if let Ok(sample) = sample(socket) {
            connection.observe(sample);
            // Data follows immediately.
            connection.is_starting = connection.tuner.needs_samples() && sample.is_far();
        }
        connection
    }

    fn next_interval(&mut self, longest: Duration) -> Duration {
        if self.is_starting && self.first_samples > 0 {
            self.first_samples -= 1;
            return FIRST_INTERVAL.min(longest);
        }
        longest
    }

    fn observe(&mut self, sample: Sample) {
        self.largest_window = self.largest_window.max(sample.info.send_window);
        self.limit_unsent_of_lane(&sample);
        let busy = busy_time();
        let before = self.before.replace((sample, busy));
        let needed = self.tuner.needs_samples() && sample.is_far();
        let changes = match needed {
            true => self.tuner.observe(sample, self.share.allowance()),
            false => Vec::new(),
        };
        if let Some((before, busy_before)) = before {
            let elapsed = sample.at.saturating_duration_since(before.at);
            let busy = busy.saturating_sub(busy_before).as_secs_f64();
            let busy = busy / elapsed.as_secs_f64().max(f64::EPSILON);
            if let Some(limit) = limit(&before, &sample, busy, self.largest_window) {
                let state = State {
                    in_flight: sample.queued,
                    is_held_back: matches!(limit, Limit::Rate | Limit::Loss)
                        && !sample.is_queue_long()
                        && congestion_control(self.socket).is_ok_and(|name| name != "bbr"),
                    is_adapted: !changes.is_empty(),
                };
                self.observer.limited_by(limit, elapsed, state);
            }
        }
        self.is_starting = needed && before.is_some_and(|(before, _)| moved(&before, &sample));
        self.apply_all(changes);
    }

    /// Adapts the limit of unsent data to the number of lanes. A lane that is alone is as any connection.
    fn limit_unsent_of_lane(&mut self, sample: &Sample) {
        let Some(lanes) = self.lanes else {
            return;
        };
        let wanted = match lanes() {
            0 | 1 => self.unsent_limit.map(|_| UNSENT_LIMIT),
            _ => Some(unsent_limit_of_lane(sample)),
        };
        if let Some(bytes) = wanted.filter(|bytes| self.unsent_limit != Some(*bytes)) {
            self.unsent_limit = wanted;
            // Without it, the stream is only slower.
            let _ = limit_unsent(self.socket, bytes);
        }
    }

    fn apply_all(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.apply(change);
        }
        self.share.set(self.tuner.requested());
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::SendBuffer { bytes, reason } => {
                let unsent_limit = *self.unsent_limit.get_or_insert(UNSENT_LIMIT);
                let set = force_send_buffer(self.socket, bytes, unsent_limit);
                self.buffer_changed("send", bytes, &reason, set);
            }
            Change::ReceiveBuffer { bytes, reason } => {
                let set = force_receive_buffer(self.socket, bytes);
                self.buffer_changed("receive", bytes, &reason, set);
            }
            Change::CongestionControl { name, reason } => {
                self.change_congestion_control(name, &reason);
            }
        }
    }

    fn buffer_changed(&mut self, which: &str, bytes: usize, reason: &str, set: io::Result<()>) {
        let Err(error) = set else {
            let size = Mebibytes(bytes);
            return self.report(format_args!("{which} buffer set to {size}: {reason}"));
        };
        self.tuner.leave_buffers();
        if !self.tuning.buffers_refused.swap(true, Ordering::Relaxed) {
            self.report(format_args!(
                "the buffers of its socket stay as the kernel sets them: larger ones need CAP_NET_ADMIN, which root has ({error})"
            ));
        }
    }

    fn change_congestion_control(&mut self, name: &str, reason: &str) {
        let before = congestion_control(self.socket).unwrap_or_default();
        if before == name {
            return;
        }
        match set_congestion_control(self.socket, name) {
            Ok(()) => {
                if name == "bbr" {
                    self.tuning.is_lossy.store(true, Ordering::Relaxed);
                }
                self.report(format_args!(
                    "congestion control {name} in place of {before}: {reason}"
                ));
            }
            Err(error) => {
                self.tuner.leave_congestion_control();
                let refused = &self.tuning.congestion_control_refused;
                if !refused.swap(true, Ordering::Relaxed) {
                    self.report(format_args!(
                        "congestion control stays {before}: {name} would be used ({reason}), but {} ({error})",
                        missing(&error, name)
                    ));
                }
            }
        }
    }

    fn report(&self, text: fmt::Arguments<'_>) {
        self.observer.socket_changed(&text);
    }
}

/// What the kernel reports at this moment.
fn sample(socket: BorrowedFd<'_>) -> io::Result<Sample> {
    Ok(Sample {
        at: Instant::now(),
        info: TcpInfo::of(socket)?,
        buffers: BufferSizes::of(socket)?,
        queued: unacknowledged(socket)?,
        unread: unread(socket)?,
    })
}

/// The limit for a lane beside others, by its data in flight.
fn unsent_limit_of_lane(sample: &Sample) -> u32 {
    let in_flight = sample.queued.saturating_sub(sample.info.unsent as usize);
    let bytes = u32::try_from(in_flight).unwrap_or(u32::MAX) / UNSENT_PART_OF_LANE;
    bytes.clamp(MIN_UNSENT_OF_LANE, UNSENT_LIMIT)
}

/// Whether data was transferred between two samples.
fn moved(before: &Sample, now: &Sample) -> bool {
    let bytes = |sample: &Sample| (sample.info.bytes_acked, sample.info.bytes_received);
    bytes(before) != bytes(now)
}

/// What a refused congestion control needs.
fn missing(error: &io::Error, name: &str) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("the kernel of this node has no module tcp_{name}")
        }
        _ => "selecting it needs CAP_NET_ADMIN, which root has".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::system::lock;
    use crate::tuning::{Buffer, Congestion};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Mutex;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl Observer for Lines {
        fn socket_changed(&self, text: &dyn Display) {
            lock(&self.0).push(text.to_string());
        }

        fn limited_by(&self, _: Limit, _: Duration, _: State) {}
    }

    #[test]
    fn a_congestion_control_that_the_kernel_does_not_have_is_logged_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        set_congestion_control(&stream, "reno").unwrap();
        let tuning = Tuning::new(Settings {
            congestion: Congestion::System,
            buffer: Buffer::System,
        });
        let lines = Lines::default();
        for _ in 0..2 {
            let monitor = tuning.monitor(&lines);
            let mut connection = Connection::new(monitor, stream.as_fd());
            connection.apply(Change::CongestionControl {
                name: "none-of-them",
                reason: "a test".to_owned(),
            });
        }
        let lines = lock(&lines.0);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let expected = "congestion control stays reno: none-of-them would be used (a test), but the kernel of this node has no module tcp_none-of-them (";
        assert!(lines[0].starts_with(expected), "{lines:?}");
        assert_eq!(congestion_control(&stream).unwrap(), "reno");
    }
}
