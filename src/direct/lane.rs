//! The connections that carry one stream together, its lanes: what both ends of a migration share for
//! them, and how a stream ends.

use super::PeerLiveness;
use super::lane_threads::LaneThreads;
use super::link::LinkError;
use crate::lanes::{Compression, LANES, THREADS};
use crate::relay::{INITIAL_WINDOW, PipePool, Stream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The windows that an end grants: how much the other end may send before the local program has taken
/// it, in bytes. Both ends keep that much, the receiver of what is out of order, and the sender of what
/// is not acknowledged. So the windows of both directions together bound the memory of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    /// Of one stream.
    of_stream: u32,
    /// Of all streams of a process together. A stream beyond that has the initial window.
    of_process: u32,
}

impl Windows {
    /// Those of a target, which receives a guest. Twice what 1 Gbit/s has in flight over a round trip of
    /// 100 ms: a lane that repairs a loss delays what the others have sent for at least a round trip.
    pub(crate) const OF_TARGET: Self = Self {
        of_stream: 32 << 20,
        of_process: 48 << 20,
    };

    /// Those of a source, which receives little.
    pub(crate) const OF_SOURCE: Self = Self {
        of_stream: 8 << 20,
        of_process: 12 << 20,
    };
}

/// Time limit for the last messages of a stream.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How many lanes a stream has, and on how many threads they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneSettings {
    /// Lanes of a stream, at most.
    pub(crate) lanes: u16,
    /// Those that a stream has even if they do not help.
    pub(crate) first: u16,
    /// How a source compresses what it sends. A target sends little, and compresses nothing.
    pub(crate) compression: Compression,
    /// Threads for all lanes but the first of each stream.
    pub(crate) threads: u16,
}

impl LaneSettings {
    /// As configured. Without a number of threads, a quarter of the cores, which leaves most of them to
    /// the guests.
    pub(crate) fn new(lanes: u16, first: u16, threads: Option<u16>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let default = || u16::try_from(cores.div_ceil(4)).unwrap_or(u16::MAX);
        let lanes = lanes.clamp(*LANES.start(), *LANES.end());
        Self {
            lanes,
            first: first.clamp(*LANES.start(), lanes),
            compression: Compression::None,
            threads: threads
                .unwrap_or_else(default)
                .clamp(*THREADS.start(), *THREADS.end()),
        }
    }

    /// With at least so many lanes, whether or not they help.
    pub(crate) fn at_least(self, lanes: u16) -> Self {
        Self {
            lanes: self.lanes.max(lanes),
            first: self.first.max(lanes),
            ..self
        }
    }

    pub(crate) fn with_compression(self, compression: Compression) -> Self {
        Self {
            compression,
            ..self
        }
    }
}

/// What differs for the streams of one forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ForwardLanes {
    /// Lanes of a stream, if these are fewer.
    pub(crate) lanes: Option<u16>,
    /// Those that a stream has even if they do not help.
    pub(crate) first: Option<u16>,
}

impl LaneSettings {
    /// Those for the streams of this forward.
    pub(crate) fn of(self, forward: ForwardLanes) -> Self {
        let within =
            |number: Option<u16>, most: u16| number.map(|it| it.clamp(*LANES.start(), most));
        let lanes = within(forward.lanes, self.lanes).unwrap_or(self.lanes);
        Self {
            lanes,
            first: within(forward.first, lanes).unwrap_or(self.first.min(lanes)),
            ..self
        }
    }
}

/// The threads and the memory that the lanes of one process share.
pub(crate) struct LaneResources {
    settings: LaneSettings,
    limits: Windows,
    /// Started with the first lane that needs them.
    threads: OnceLock<LaneThreads>,
    /// What the windows have together.
    windows: AtomicU32,
    /// The pipes of all streams.
    pub(crate) pipes: Arc<PipePool>,
}

impl LaneResources {
    pub(crate) fn new(settings: LaneSettings, limits: Windows) -> Self {
        Self {
            settings,
            limits,
            threads: OnceLock::new(),
            windows: AtomicU32::new(0),
            pipes: Arc::default(),
        }
    }

    /// As configured.
    pub(crate) fn settings(&self) -> LaneSettings {
        self.settings
    }

    /// Starts a task on one of the threads.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let start = || LaneThreads::start(self.settings.threads);
        self.threads.get_or_init(start).spawn(task)
    }

    /// The window of a new stream.
    pub(crate) fn window(self: &Arc<Self>) -> Window {
        let used = self.windows.load(Ordering::Relaxed);
        let left = self.limits.of_process.saturating_sub(used);
        let bytes = left.clamp(INITIAL_WINDOW, self.limits.of_stream);
        self.windows.fetch_add(bytes, Ordering::Relaxed);
        Window {
            resources: self.clone(),
            bytes,
        }
    }
}

/// The part of the memory that one stream may use. Dropping it returns the part.
pub(crate) struct Window {
    resources: Arc<LaneResources>,
    pub(crate) bytes: u32,
}

impl Drop for Window {
    fn drop(&mut self) {
        let windows = &self.resources.windows;
        windows.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Waits until a stream is complete at this end, or has failed. The caller then ends its lanes by
/// [`finish`].
pub(crate) async fn outcome(stream: &Stream, liveness: &PeerLiveness) -> Result<(), LinkError> {
    let limit = liveness.dead_peer_timeout();
    tokio::select! {
        biased;
        result = stream.run() => Ok(result?),
        reason = liveness.died() => Err(LinkError::Dead(reason)),
        () = stream.without_progress_for(limit) => Err(LinkError::NoProgress(limit)),
    }
}

/// Ends the lanes of a stream: after a good end when the peer has received the last acknowledgement,
/// after a failure when it was sent an announcement, and otherwise after a time limit.
pub(crate) async fn finish(stream: &Stream, result: &Result<(), LinkError>) {
    let _ = match result {
        Ok(()) => timeout(CLOSE_TIMEOUT, stream.without_lanes()).await,
        Err(_) => {
            stream.abort();
            timeout(CLOSE_TIMEOUT, async {
                stream.aborted().await;
                // The peer ends the lanes when it has received the announcement.
                stream.without_lanes().await;
            })
            .await
        }
    };
    stream.stop().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_has_at_most_the_lanes_of_its_network() {
        let settings = LaneSettings::new(8, 2, Some(1));
        for (lanes, first, expected) in [
            (None, None, (8, 2)),
            (Some(1), None, (1, 1)),
            (Some(4), None, (4, 2)),
            (Some(16), Some(16), (8, 8)),
            (None, Some(8), (8, 8)),
            (Some(4), Some(8), (4, 4)),
            (Some(0), Some(0), (1, 1)),
        ] {
            let of = settings.of(ForwardLanes { lanes, first });
            assert_eq!((of.lanes, of.first), expected, "{lanes:?} {first:?}");
            assert_eq!(of.threads, 1);
        }
    }
}
