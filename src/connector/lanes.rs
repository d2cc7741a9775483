//! The source's end of a stream over several connections: opens them, and opens them again when they
//! fail.

use super::connect_error::ConnectError;
use super::direct_target::DirectTarget;
use super::lane_demand::{LaneDemand, LaneObserver};
use crate::direct::handshake::{LaneRequest, Purpose, StreamId};
use crate::direct::lane::{finish, outcome};
use crate::direct::{ForwardLanes, HandshakeError, LaneResources, LaneSettings, Link, LinkError};
use crate::lanes::Compression;
use crate::relay::{Counters, Local, RelayError, Stream, StreamCompression};
use crate::tuning::{Observer, Tuning};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Bytes that a stream moves over one lane before it has those that do not depend on what limits it.
const FIRST_LANE_ALONE: u64 = 4 << 20;

/// Interval of the check for that.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Pause before a failed lane is opened again. It doubles after each failure, up to the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A stream with its first lane.
pub(super) struct Lanes {
    target: Arc<DirectTarget>,
    resources: Arc<LaneResources>,
    settings: LaneSettings,
    number: u32,
    stream: StreamId,
    first: Link,
}

impl Lanes {
    /// Begins a stream to a forward.
    pub(super) async fn open(
        target: Arc<DirectTarget>,
        resources: Arc<LaneResources>,
        number: u32,
        of_forward: ForwardLanes,
    ) -> Result<Self, ConnectError> {
        let stream = StreamId::generate()?;
        let lane = Some(LaneRequest {
            stream,
            joins: false,
        });
        let first = target.connect(Purpose { number, lane }).await?;
        Ok(Self {
            target,
            settings: resources.settings().of(of_forward),
            resources,
            number,
            stream,
            first,
        })
    }

    /// Relays until both directions have ended, or the stream has failed.
    pub(super) async fn relay(
        self,
        local: Arc<Local>,
        counters: Arc<Counters>,
        tuning: Arc<Tuning>,
        observer: Arc<dyn Observer>,
    ) -> Result<(), LinkError> {
        let liveness = self.target.liveness().clone();
        let window = self.resources.window();
        let settings = self.settings;
        let compression = match settings.compression {
            Compression::Zstd => StreamCompression::Sends,
            Compression::None => StreamCompression::None,
        };
        let pipes = self.resources.pipes.clone();
        let stream = Stream::new(local, counters.clone(), window.bytes, compression, pipes);
        let stream = Arc::new(stream);
        // A task that is cancelled must not look to the target like a stream that may heal.
        let _end = AbortOnDrop(stream.clone());
        let demand = Arc::new(LaneDemand::new(settings));
        let observer = Arc::new(LaneObserver {
            demand: demand.clone(),
            stream: stream.clone(),
            observer,
        });
        let lane = |index| Lane {
            index,
            target: self.target.clone(),
            purpose: Purpose {
                number: self.number,
                lane: Some(LaneRequest {
                    stream: self.stream,
                    joins: true,
                }),
            },
            stream: stream.clone(),
            tuning: tuning.clone(),
            observer: observer.clone(),
            counters: counters.clone(),
        };
        tokio::spawn(lane(1).run(Some(self.first)));
        for index in 2..=settings.lanes {
            let (lane, demand) = (lane(index), demand.clone());
            self.resources.spawn(async move {
                if lane.is_needed(&demand).await {
                    lane.run(None).await;
                }
            });
        }
        let result = outcome(&stream, &liveness).await;
        if result.is_ok() {
            // Until then, the last acknowledgement may have been lost with its lane.
            let limit = liveness.dead_peer_timeout();
            tokio::select! {
                _ = timeout(limit, stream.confirmed()) => {}
                _ = liveness.died() => {}
            }
        }
        finish(&stream, &result).await;
        result
    }
}

struct AbortOnDrop(Arc<Stream>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One lane of a stream, and those that replace it.
struct Lane {
    /// From 1, for the log.
    index: u16,
    target: Arc<DirectTarget>,
    purpose: Purpose,
    stream: Arc<Stream>,
    tuning: Arc<Tuning>,
    observer: Arc<dyn Observer>,
    counters: Arc<Counters>,
}

impl Lane {
    /// Waits until the stream needs this lane. False if it ends before.
    async fn is_needed(&self, demand: &LaneDemand) -> bool {
        let needed = async {
            match demand.is_first(self.index) {
                true => self.moved(FIRST_LANE_ALONE).await,
                false => demand.reaches(self.index).await,
            }
        };
        tokio::select! {
            () = needed => true,
            () = self.stream.over() => false,
        }
    }

    /// Waits until the stream has moved so many bytes.
    async fn moved(&self, bytes: u64) {
        loop {
            let (sent, received) = self.counters.bytes();
            if sent + received >= bytes {
                return;
            }
            sleep(CHECK_INTERVAL).await;
        }
    }

    /// Serves the lane, and opens it again after each failure, until the stream is over.
    async fn run(self, mut link: Option<Link>) {
        let mut pause = FIRST_PAUSE;
        let mut failed = false;
        while !self.stream.is_over() {
            let opened = match link.take() {
                Some(link) => Ok(link),
                // The local socket stays open as long as this task has the stream.
                None => tokio::select! {
                    opened = self.target.connect(self.purpose) => opened,
                    () = self.stream.over() => return,
                },
            };
            let failure = match opened {
                Ok(link) => {
                    if std::mem::take(&mut failed) {
                        self.counters.lanes.reopened();
                        self.log(format_args!("is open again"));
                    }
                    pause = FIRST_PAUSE;
                    let liveness = self.target.liveness();
                    let monitor = self.tuning.monitor(&*self.observer);
                    tokio::select! {
                        served = link.serve_lane(&self.stream, liveness, monitor) => served.err(),
                        () = self.target.path_failed() => {
                            Some("the heartbeat on the same path was not answered".to_owned())
                        }
                    }
                }
                Err(ConnectError::Handshake(HandshakeError::StreamOver)) => {
                    return self.stream.confirm();
                }
                Err(ConnectError::Handshake(HandshakeError::NoStream)) => {
                    return self.stream.fail(RelayError::Aborted);
                }
                Err(error) => Some(error.to_string()),
            };
            if self.stream.is_over() {
                return;
            }
            if let Some(reason) = failure {
                if !std::mem::replace(&mut failed, true) {
                    self.log(format_args!("failed: {reason}; opening it again"));
                }
            }
            tokio::select! {
                () = sleep(pause) => pause = (2 * pause).min(LONGEST_PAUSE),
                () = self.stream.over() => {}
            }
        }
    }

    fn log(&self, text: std::fmt::Arguments<'_>) {
        self.observer
            .lane_changed(&format_args!("lane {}: {text}", self.index));
    }
}
