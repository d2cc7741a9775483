//! Counters of the forwards, and progress lines while data moves.

use crate::connector::quantity::{Size, rate};
use crate::process::Log;
use crate::relay::Counters;
use crate::system::lock;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Interval of the progress lines of a forward with traffic.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// The counters of all forwards of the process, including those that have ended.
#[derive(Debug, Default)]
pub(in crate::connector) struct Traffic {
    forwards: Mutex<Vec<Arc<ForwardCounters>>>,
    open_time: Arc<Mutex<OpenTime>>,
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
}

impl Traffic {
    /// Adds a forward and returns its counters.
    pub(super) fn add_forward(&self, name: String) -> Arc<ForwardCounters> {
        let counters = Arc::new(ForwardCounters {
            name,
            open_time: self.open_time.clone(),
            ..ForwardCounters::default()
        });
        lock(&self.forwards).push(counters.clone());
        counters
    }

    /// Logs progress until the task is cancelled.
    pub(in crate::connector) async fn log_progress(&self, log: &Log) -> Infallible {
        let mut ticks = interval_at(Instant::now() + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Vec<(u64, u64)> = Vec::new();
        let mut last = Instant::now();
        loop {
            let now = ticks.tick().await;
            let seconds = (now - last).as_secs_f64();
            last = now;
            let forwards = lock(&self.forwards).clone();
            before.resize(forwards.len(), (0, 0));
            for (forward, before) in forwards.iter().zip(&mut before) {
                let (sent, received) = forward.bytes();
                let moved = (sent - before.0) + (received - before.1);
                *before = (sent, received);
                if moved > 0 {
                    log.line(format_args!(
                        "forward '{}': {} sent, {} received, {}/s",
                        forward.name,
                        Size(sent),
                        Size(received),
                        Size(rate(moved, seconds))
                    ));
                }
            }
        }
    }

    /// The sum of all forwards so far.
    pub(in crate::connector) fn total(&self) -> Total {
        let forwards = lock(&self.forwards).clone();
        let sum = |value: &dyn Fn(&ForwardCounters) -> u64| {
            forwards.iter().map(|forward| value(forward)).sum()
        };
        Total {
            sent: sum(&|forward| forward.bytes().0),
            received: sum(&|forward| forward.bytes().1),
            time: lock(&self.open_time).total(),
            forwards: forwards.len() as u64,
            connections: sum(&|forward| forward.connections.load(Ordering::Relaxed)),
            failed: sum(&|forward| forward.failed.load(Ordering::Relaxed)),
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

/// The counters of one forward.
#[derive(Debug, Default)]
pub(super) struct ForwardCounters {
    name: String,
    connections: AtomicU64,
    failed: AtomicU64,
    moved: Mutex<Moved>,
    open_time: Arc<Mutex<OpenTime>>,
}

/// Bytes of the ended connections, and counters of the open ones.
#[derive(Debug, Default)]
struct Moved {
    ended: (u64, u64),
    open: Vec<Arc<Counters>>,
}

impl ForwardCounters {
    /// Counts a new connection and returns its counters.
    pub(super) fn connected(&self) -> Arc<Counters> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let counters = Arc::new(Counters::default());
        lock(&self.moved).open.push(counters.clone());
        lock(&self.open_time).begin();
        counters
    }

    /// Counts the end of a connection.
    pub(super) fn ended(&self, counters: &Arc<Counters>) {
        let mut moved = lock(&self.moved);
        moved.open.retain(|other| !Arc::ptr_eq(other, counters));
        let (sent, received) = counters.bytes();
        moved.ended = (moved.ended.0 + sent, moved.ended.1 + received);
        drop(moved);
        lock(&self.open_time).end();
    }

    /// Counts a connection that failed or could not be opened.
    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes sent and received so far.
    fn bytes(&self) -> (u64, u64) {
        let moved = lock(&self.moved);
        let open = moved.open.iter().map(|counters| counters.bytes());
        open.fold(moved.ended, |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}
