//! Counters of the forwards, and the line about their progress while data moves.

use crate::connector::progress::{Expected, ForwardState, GuestSize, Progress, Rate, expected};
use crate::guest_socket::Content;
use crate::lanes::LaneUsage;
use crate::process::Log;
use crate::quantity::{Size, rate};
use crate::relay::{Counters, Local};
use crate::system::lock;
use crate::tuning::{Limit, LimitTimes};
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

/// Interval of the lines about the progress of a migration.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// How long the caller waits for data that its programs have sent before they closed.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// The counters of all forwards of the process, including those that have ended.
#[derive(Debug, Default)]
pub(in crate::connector) struct Traffic {
    forwards: Mutex<Vec<Arc<ForwardCounters>>>,
    guest: Mutex<GuestSize>,
    open_time: Arc<Mutex<OpenTime>>,
    /// Notified when a connection has ended.
    ended: Arc<Notify>,
}

/// The sum of all forwards.
pub(in crate::connector) struct Total {
    pub(in crate::connector) sent: u64,
    pub(in crate::connector) received: u64,
    /// In which at least one connection was open.
    pub(in crate::connector) time: Duration,
    pub(in crate::connector) forwards: u64,
    pub(in crate::connector) connections: u64,
    pub(in crate::connector) failed: u64,
    pub(in crate::connector) limits: LimitTimes,
    pub(in crate::connector) lanes: LaneUsage,
}

impl Traffic {
    /// Adds a forward and returns its counters. `size` is what the caller expects it to carry.
    pub(super) fn add_forward(&self, content: Content, size: Option<u64>) -> Arc<ForwardCounters> {
        let counters = Arc::new(ForwardCounters {
            content,
            size,
            open_time: self.open_time.clone(),
            any_ended: self.ended.clone(),
            ..ForwardCounters::default()
        });
        lock(&self.forwards).push(counters.clone());
        counters
    }

    /// Waits, for a limited time, until connections with this content have ended whose programs have
    /// closed: what these have sent has then arrived.
    pub(in crate::connector) async fn drain(&self, content: Content) {
        let drained = async {
            loop {
                let ended = self.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                let forwards = lock(&self.forwards).clone();
                let mut of_content = forwards.iter().filter(|each| each.content == content);
                if !of_content.any(|forward| forward.is_closing()) {
                    return;
                }
                ended.await;
            }
        };
        let _ = timeout(DRAIN_LIMIT, drained).await;
    }

    /// Takes the guest's sizes from a line of the caller for the worker.
    pub(in crate::connector) fn observe_command(&self, line: &[u8]) {
        lock(&self.guest).observe(line);
    }

    /// Logs progress until the task is cancelled.
    pub(in crate::connector) async fn log_progress(&self, log: &Log) -> Infallible {
        let mut ticks = interval_at(Instant::now() + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = Moved::default();
        let mut is_moving = false;
        loop {
            ticks.tick().await;
            let (now, expected) = self.state();
            let since = now.since(before);
            before = now;
            let was_moving = std::mem::replace(&mut is_moving, since.bytes() > 0);
            // The end of a forward's connections was logged when they ended.
            if !self.is_open() || !(is_moving || was_moving) {
                continue;
            }
            let progress = Progress {
                done: now.bytes(),
                expected,
                rate: match is_moving {
                    true => Rate::Moving(since.rate()),
                    false => Rate::Stalled(PROGRESS_INTERVAL),
                },
            };
            let (lanes, limit) = (since.lanes, LimitedBy(since.limit()));
            log.line(format_args!("{progress}{lanes}{limit}"));
        }
    }

    /// What all forwards together have moved so far, and what they are expected to carry.
    pub(in crate::connector) fn state(&self) -> (Moved, Expected) {
        let forwards = lock(&self.forwards).clone();
        let states: Vec<ForwardState> = forwards.iter().map(|forward| forward.state()).collect();
        let total = self.total();
        let moved = Moved {
            sent: total.sent,
            received: total.received,
            time: total.time,
            limits: total.limits,
            lanes: total.lanes,
        };
        (moved, expected(&states, &lock(&self.guest)))
    }

    fn is_open(&self) -> bool {
        lock(&self.open_time).open > 0
    }

    /// The sum of all forwards so far.
    pub(in crate::connector) fn total(&self) -> Total {
        let forwards = lock(&self.forwards).clone();
        let sum = |value: &dyn Fn(&ForwardCounters) -> u64| {
            forwards.iter().map(|forward| value(forward)).sum()
        };
        Total {
            sent: sum(&|forward| forward.moved().sent),
            received: sum(&|forward| forward.moved().received),
            time: lock(&self.open_time).total(),
            forwards: forwards.len() as u64,
            connections: sum(&|forward| forward.connections.load(Ordering::Relaxed)),
            failed: sum(&|forward| forward.failed.load(Ordering::Relaxed)),
            limits: forwards
                .iter()
                .map(|forward| *lock(&forward.limits))
                .fold(LimitTimes::default(), LimitTimes::plus),
            lanes: forwards
                .iter()
                .map(|forward| forward.moved().lanes)
                .fold(LaneUsage::default(), LaneUsage::plus),
        }
    }
}

/// The time in which at least one connection was open.
#[derive(Debug, Default)]
struct OpenTime {
    open: u64,
    since: Option<Instant>,
    before: Duration,
}

impl OpenTime {
    fn begin(&mut self) {
        self.open += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    fn end(&mut self) {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            self.before = self.total();
            self.since = None;
        }
    }

    fn total(&self) -> Duration {
        let now = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        self.before + now
    }
}

/// What one forward, or all of them, have moved.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::connector) struct Moved {
    pub(in crate::connector) sent: u64,
    pub(in crate::connector) received: u64,
    /// In which at least one of the connections was open.
    time: Duration,
    limits: LimitTimes,
    lanes: LaneUsage,
}

impl Moved {
    fn bytes(self) -> u64 {
        self.sent + self.received
    }

    /// What was moved after `before`.
    fn since(self, before: Self) -> Self {
        Self {
            sent: self.sent.saturating_sub(before.sent),
            received: self.received.saturating_sub(before.received),
            time: self.time.saturating_sub(before.time),
            limits: self.limits.since(before.limits),
            lanes: self.lanes.since(before.lanes),
        }
    }

    /// What has limited the data between two lines about progress. The time between two samples of a
    /// connection may have begun before the first of the lines. If nothing has moved, only what has
    /// applied for at least half of the interval counts.
    fn limit(self) -> Option<Limit> {
        let longest = self.limits.main()?;
        let is_long = self.limits.of(longest) >= PROGRESS_INTERVAL / 2;
        (self.bytes() > 0 || is_long).then_some(longest)
    }

    /// Bytes per second of open time.
    fn rate(self) -> u64 {
        rate(self.bytes(), self.time.as_secs_f64())
    }
}

/// All of it, with the average rate.
impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent, {} received in {:.1} s, {}/s{}{}",
            Size(self.sent),
            Size(self.received),
            self.time.as_secs_f64(),
            Size(self.rate()),
            self.lanes,
            LimitedBy(self.limits.main())
        )
    }
}

/// The end of a line about data: what has limited it for most of the time.
pub(in crate::connector) struct LimitedBy(pub(in crate::connector) Option<Limit>);

impl fmt::Display for LimitedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(limit) => write!(f, ", limited by {}", limit.description()),
            None => Ok(()),
        }
    }
}

/// The counters of one forward.
#[derive(Debug, Default)]
pub(super) struct ForwardCounters {
    content: Content,
    /// As the caller has given it, in bytes.
    size: Option<u64>,
    connections: AtomicU64,
    failed: AtomicU64,
    bytes: Mutex<Bytes>,
    /// Of this forward.
    own_time: Mutex<OpenTime>,
    /// Of all forwards together.
    open_time: Arc<Mutex<OpenTime>>,
    /// Notified when a connection of any of them has ended.
    any_ended: Arc<Notify>,
    /// The sum of its connections.
    limits: Mutex<LimitTimes>,
}

/// Bytes of the ended connections, and counters of the open ones.
#[derive(Debug, Default)]
struct Bytes {
    ended: (u64, u64),
    ended_lanes: LaneUsage,
    open: Vec<OpenConnection>,
}

#[derive(Debug)]
struct OpenConnection {
    counters: Arc<Counters>,
    local: Weak<Local>,
}

impl ForwardCounters {
    /// Counts a new connection of a local program and returns its counters.
    pub(super) fn connected(&self, local: &Arc<Local>) -> Arc<Counters> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let counters = Arc::new(Counters::default());
        lock(&self.bytes).open.push(OpenConnection {
            counters: counters.clone(),
            local: Arc::downgrade(local),
        });
        lock(&self.own_time).begin();
        lock(&self.open_time).begin();
        counters
    }

    /// Counts the end of a connection. If no other one is open, returns what the forward has moved so
    /// far.
    pub(super) fn ended(&self, counters: &Arc<Counters>) -> Option<Moved> {
        let mut bytes = lock(&self.bytes);
        let is_other = |other: &OpenConnection| !Arc::ptr_eq(&other.counters, counters);
        bytes.open.retain(is_other);
        let (sent, received) = counters.bytes();
        bytes.ended = (bytes.ended.0 + sent, bytes.ended.1 + received);
        bytes.ended_lanes = bytes.ended_lanes.plus(counters.lanes.usage());
        drop(bytes);
        lock(&self.own_time).end();
        lock(&self.open_time).end();
        self.any_ended.notify_waiters();
        (!self.is_open()).then(|| self.moved())
    }

    /// Counts the time for which a connection was limited by this.
    pub(super) fn limited_by(&self, limit: Limit, time: Duration) {
        lock(&self.limits).add(limit, time);
    }

    /// Counts a connection that failed or could not be opened.
    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    fn is_open(&self) -> bool {
        lock(&self.own_time).open > 0
    }

    /// Whether a program has closed its connection, and the connection has not ended.
    fn is_closing(&self) -> bool {
        let bytes = lock(&self.bytes);
        let mut locals = bytes.open.iter().filter_map(|open| open.local.upgrade());
        locals.any(|local| local.is_gone())
    }

    fn state(&self) -> ForwardState {
        ForwardState {
            content: self.content,
            size: self.size,
            moved: self.moved().bytes(),
            is_open: self.is_open(),
        }
    }

    fn moved(&self) -> Moved {
        let bytes = lock(&self.bytes);
        let open = bytes.open.iter().map(|open| open.counters.bytes());
        let (sent, received) = open.fold(bytes.ended, |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let open = bytes.open.iter().map(|open| open.counters.lanes.usage());
        Moved {
            sent,
            received,
            time: lock(&self.own_time).total(),
            limits: *lock(&self.limits),
            lanes: open.fold(bytes.ended_lanes, LaneUsage::plus),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Limit, LimitTimes, Moved};
    use std::time::Duration;

    #[test]
    fn a_limit_of_the_time_before_is_not_reported_for_a_pause() {
        // Bytes, milliseconds for which the program at the source was the limit, and whether it is
        // reported.
        for (sent, milliseconds, reported) in [
            (1, 1, true),
            (1, 0, false),
            (0, 1000, false),
            (0, 4999, false),
            (0, 5000, true),
        ] {
            let mut limits = LimitTimes::default();
            limits.add(Limit::Source, Duration::from_millis(milliseconds));
            let moved = Moved {
                sent,
                limits,
                ..Moved::default()
            };
            let expected = reported.then_some(Limit::Source);
            assert_eq!(moved.limit(), expected, "{sent} {milliseconds}");
        }
    }

    #[test]
    fn a_rate_is_that_of_the_time_in_which_the_forward_was_open() {
        const MIB: u64 = 1 << 20;
        let moved = |sent, milliseconds| Moved {
            sent,
            received: 0,
            time: Duration::from_millis(milliseconds),
            ..Moved::default()
        };
        // 64 MiB in a quarter of a second, within an interval of 10 s between two lines.
        assert_eq!(moved(64 * MIB, 250).rate(), 256 * MIB);
        // The second line reports the rate since the first one.
        let since = moved(164 * MIB, 10_250).since(moved(64 * MIB, 250));
        assert_eq!(since.rate(), 10 * MIB);
        assert_eq!(
            moved(164 * MIB, 10_250).to_string(),
            "164.0 MiB sent, 0 B received in 10.2 s, 16.0 MiB/s"
        );
    }
}
