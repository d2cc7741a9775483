//! What went over the forwards: progress lines while it goes, a record at the end.

use super::direct::Summary;
use crate::capability::{Plan, Plane};
use crate::direct::message::{Refused, Stat};
use crate::process::Log;
use crate::relay::Counters;
use serde::Serialize;
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// A forward on which something moves has one progress line in this time.
const PROGRESS: Duration = Duration::from_secs(10);

/// One forward's share.
#[derive(Debug, Default)]
pub(super) struct Flow {
    name: String,
    connections: AtomicU64,
    failed: AtomicU64,
    moved: Mutex<Moved>,
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
        counters
    }

    /// That connection is over.
    pub(super) fn ended(&self, counters: &Arc<Counters>) {
        let mut moved = lock(&self.moved);
        moved.running.retain(|other| !Arc::ptr_eq(other, counters));
        let (sent, received) = counters.bytes();
        moved.over = (moved.over.0 + sent, moved.over.1 + received);
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

/// All forwards of the process, those that are over too.
#[derive(Debug)]
pub(super) struct Traffic {
    started: Instant,
    flows: Mutex<Vec<Arc<Flow>>>,
}

/// The way that the data of forwards took.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Way {
    #[serde(rename = "forwards_plane")]
    pub(super) plane: Plane,
    pub(super) protocol: Option<u16>,
    pub(super) cipher: String,
    pub(super) local: Option<String>,
    pub(super) remote: String,
    pub(super) fingerprint: Option<String>,
    pub(super) own_fingerprint: Option<String>,
}

impl From<Summary> for Way {
    fn from(summary: Summary) -> Self {
        Self {
            plane: summary.plane,
            protocol: Some(summary.protocol),
            cipher: summary.cipher,
            local: Some(summary.local.to_string()),
            remote: std::net::SocketAddr::new(summary.address, summary.port).to_string(),
            fingerprint: summary.fingerprint,
            own_fingerprint: summary.own_fingerprint,
        }
    }
}

/// What happened, for people by [`Display`](fmt::Display) and for programs as JSON.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Record {
    /// Of the plan, `qemu` among them; that of the forwards is in `way`.
    plane: Plane,
    #[serde(flatten)]
    way: Way,
    sent: u64,
    received: u64,
    seconds: f64,
    forwards: u64,
    connections: u64,
    failed: u64,
    /// By reason; null if the target could not be asked, or has no listener.
    refused: Option<Refused>,
}

impl Record {
    /// Whether there is anything to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.connections == 0 && self.failed == 0
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plane {}", self.plane.name())?;
        if self.plane != self.way.plane {
            write!(f, ", forwards on plane {}", self.way.plane.name())?;
        }
        write!(f, " ({}) ", self.way.cipher)?;
        if let Some(local) = &self.way.local {
            write!(f, "from {local} ")?;
        }
        write!(f, "to {}", self.way.remote)?;
        if let Some(fingerprint) = &self.way.fingerprint {
            write!(f, ", fingerprint {fingerprint}")?;
        }
        write!(
            f,
            ": {} sent, {} received in {:.1} s, {}/s, {} forwards, {} connections, {} of them failed",
            Size(self.sent),
            Size(self.received),
            self.seconds,
            Size(rate(self.sent + self.received, self.seconds)),
            self.forwards,
            self.connections,
            self.failed
        )?;
        match &self.refused {
            Some(refused) => write!(f, ", {} refused by the target", refused.total()),
            None => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number of bytes for people.
struct Size(u64);

impl fmt::Display for Size {
    #[allow(clippy::cast_precision_loss)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut size = self.0 as f64 / 1024.0;
        let mut units = UNITS.iter();
        let mut unit = units.next();
        while size >= 1024.0 {
            let Some(next) = units.next() else { break };
            unit = Some(next);
            size /= 1024.0;
        }
        write!(f, "{size:.1} {}", unit.unwrap_or(&"KiB"))
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn rate(bytes: u64, seconds: f64) -> u64 {
    (bytes as f64 / seconds.max(0.001)) as u64
}

impl Traffic {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            flows: Mutex::default(),
        }
    }

    /// A new forward's share.
    pub(super) fn flow(&self, name: String) -> Arc<Flow> {
        let flow = Arc::new(Flow {
            name,
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

    /// The record of everything so far.
    pub(super) fn record(&self, plan: Option<&Plan>, way: Way, stat: Option<&Stat>) -> Record {
        let flows = lock(&self.flows).clone();
        let sum = |value: &dyn Fn(&Flow) -> u64| flows.iter().map(|flow| value(flow)).sum();
        Record {
            plane: plan.map_or(way.plane, |plan| plan.plane),
            way,
            sent: sum(&|flow| flow.bytes().0),
            received: sum(&|flow| flow.bytes().1),
            seconds: (self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            forwards: flows.len() as u64,
            connections: sum(&|flow| flow.connections.load(Ordering::Relaxed)),
            failed: sum(&|flow| flow.failed.load(Ordering::Relaxed)),
            refused: stat.map(|stat| stat.refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn sizes_are_readable() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (1 << 40, "1.0 TiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), expected);
        }
    }
}
