//! What goes over the forwards, counted, and told while it goes.

use super::record::{Size, rate};
use crate::process::{Log, lock};
use crate::relay::Counters;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// A forward on which something moves has one progress line in this time.
const PROGRESS: Duration = Duration::from_secs(10);

/// All forwards of the process, those that are over too.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    flows: Mutex<Vec<Arc<Flow>>>,
    busy: Arc<Mutex<Busy>>,
}

/// Everything so far.
pub(super) struct Total {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// While at least one connection was open.
    pub(super) time: Duration,
    pub(super) forwards: u64,
    pub(super) connections: u64,
    pub(super) failed: u64,
}

impl Traffic {
    /// A new forward's share.
    pub(super) fn flow(&self, name: String) -> Arc<Flow> {
        let flow = Arc::new(Flow {
            name,
            busy: self.busy.clone(),
            ..Flow::default()
        });
        lock(&self.flows).push(flow.clone());
        flow
    }

    /// Logs progress, for ever.
    pub(super) async fn tell(&self, log: &Log) -> Infallible {
        let mut ticks = interval_at(Instant::now() + PROGRESS, PROGRESS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Vec<(u64, u64)> = Vec::new();
        let mut last = Instant::now();
        loop {
            let now = ticks.tick().await;
            let seconds = (now - last).as_secs_f64();
            last = now;
            let flows = lock(&self.flows).clone();
            before.resize(flows.len(), (0, 0));
            for (flow, before) in flows.iter().zip(&mut before) {
                let (sent, received) = flow.bytes();
                let moved = (sent - before.0) + (received - before.1);
                *before = (sent, received);
                if moved > 0 {
                    log.line(format_args!(
                        "forward '{}': {} sent, {} received, {}/s",
                        flow.name,
                        Size(sent),
                        Size(received),
                        Size(rate(moved, seconds))
                    ));
                }
            }
        }
    }

    /// The sum of all forwards.
    pub(super) fn total(&self) -> Total {
        let flows = lock(&self.flows).clone();
        let sum = |value: &dyn Fn(&Flow) -> u64| flows.iter().map(|flow| value(flow)).sum();
        Total {
            sent: sum(&|flow| flow.bytes().0),
            received: sum(&|flow| flow.bytes().1),
            time: lock(&self.busy).time(),
            forwards: flows.len() as u64,
            connections: sum(&|flow| flow.connections.load(Ordering::Relaxed)),
            failed: sum(&|flow| flow.failed.load(Ordering::Relaxed)),
        }
    }
}

/// How long connections were open, however many at a time.
#[derive(Debug, Default)]
struct Busy {
    open: u64,
    since: Option<Instant>,
    before: Duration,
}

impl Busy {
    fn begin(&mut self) {
        self.open += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    fn end(&mut self) {
        self.open = self.open.saturating_sub(1);
        if self.open == 0 {
            self.before = self.time();
            self.since = None;
        }
    }

    fn time(&self) -> Duration {
        let now = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        self.before + now
    }
}

/// One forward's share.
#[derive(Debug, Default)]
pub(super) struct Flow {
    name: String,
    connections: AtomicU64,
    failed: AtomicU64,
    moved: Mutex<Moved>,
    busy: Arc<Mutex<Busy>>,
}

/// Bytes: of the connections that are over, and those of the others.
#[derive(Debug, Default)]
struct Moved {
    over: (u64, u64),
    running: Vec<Arc<Counters>>,
}

impl Flow {
    /// A new connection's counters.
    pub(super) fn connected(&self) -> Arc<Counters> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let counters = Arc::new(Counters::default());
        lock(&self.moved).running.push(counters.clone());
        lock(&self.busy).begin();
        counters
    }

    /// That connection is over.
    pub(super) fn ended(&self, counters: &Arc<Counters>) {
        let mut moved = lock(&self.moved);
        moved.running.retain(|other| !Arc::ptr_eq(other, counters));
        let (sent, received) = counters.bytes();
        moved.over = (moved.over.0 + sent, moved.over.1 + received);
        drop(moved);
        lock(&self.busy).end();
    }

    /// A connection failed, or could not even be opened.
    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Sent and received so far.
    fn bytes(&self) -> (u64, u64) {
        let moved = lock(&self.moved);
        let running = moved.running.iter().map(|counters| counters.bytes());
        running.fold(moved.over, |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}
