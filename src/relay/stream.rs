//! A local socket whose stream is carried by several connections, its lanes.
//!
//! Every lane reads the local socket itself, in turn with the others, and encrypts and sends what it
//! has read. The turn goes to another lane only if this one cannot keep up: its memory was full, or its
//! connection does not take more. A wake-up costs more than a small piece of data.
//!
//! What arrives in order is written to the local socket at once. The rest is stored until its turn, and
//! written by the lane that has received what comes before it. No lane waits for the local program with data
//! in its hands while the other direction needs an acknowledgement.
//!
//! Lanes run on several threads, of which each may lose its core at any moment, but the local socket is
//! one. So what lanes do in turn or with a lock is short. Where a thread has lost its core within a turn, the
//! kernel moves pages between the socket and pipes for some time, and each lane copies between a pipe and its
//! own memory at the same time as others, see [`preemption`]. A lane among others does not wait for events of
//! the local socket that another thread has to take from the kernel.
//!
//! What a lane does not deliver is sent on another one, see [`stall`].
//!
//! The two programs see what they would see over one connection, see [`super`].

mod arrived;
mod compression;
mod delivery;
mod kept;
mod lane;
mod outbound;
mod pool;
mod preemption;
mod reading;
mod receiving;
mod run;
mod sending;
mod stall;
mod zeros;

pub(crate) use lane::{LaneError, Way};
pub(crate) use pool::PipePool;

use super::local::{Local, Readiness};
use super::{Counters, DRAIN_TIMEOUT, Progress, RelayError};
use crate::lanes::{LaneId, MAX_PAYLOAD, Receiver, Sender, Violation};
use crate::system::lock;
use arrived::Arrived;
use kept::{Chunks, Kept};
use lane::OpenLane;
use pool::{Buffers, Pipes, SharedPipe};
use preemption::Preemption;
use stall::Stall;
use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// Bytes that each end may send before the first acknowledgement.
pub(crate) const INITIAL_WINDOW: u32 = 256 << 10;

/// Interval of acknowledgements that no amount of data makes due.
const ACKNOWLEDGEMENT_INTERVAL: Duration = Duration::from_millis(500);

/// Zeros that are written at once.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What is kept of a chunk until the peer has acknowledged it.
enum Content {
    Bytes(Kept),
    /// So many zeros.
    Zeros(u32),
}

/// What this end does with compressed data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamCompression {
    /// It neither sends nor accepts any.
    None,
    /// It sends some.
    Sends,
    /// It accepts some.
    Accepts,
}

/// A local socket and the state of its stream at this end.
pub(crate) struct Stream {
    local: Arc<Local>,
    counters: Arc<Counters>,
    compression: StreamCompression,
    pipes: Pipes,
    preemption: Preemption,
    /// Whether a lane reads the local socket.
    reading: AtomicBool,
    /// Notified when a lane that waits for it may read the local socket.
    turn: Notify,
    state: Mutex<State>,
    progress: Progress,
    /// Notified when there is something to send other than new data.
    work: Notify,
    /// Notified when the local program has to read before stored data can be written.
    stored: Notify,
    /// Notified when new data was sent, which the peer has to acknowledge.
    sent: Notify,
    /// Notified when the state may be final.
    changed: Notify,
}

struct State {
    sender: Sender<Content>,
    receiver: Receiver<Arrived>,
    /// For data that arrives.
    buffers: Buffers,
    /// For data that is sent.
    chunks: Chunks,
    /// Lanes so far.
    opened: u64,
    /// Lanes that are open.
    lanes: usize,
    /// The local program has ended its direction.
    local_ended: bool,
    /// The local program does not read any more, and data for it is dropped.
    dropping: bool,
    /// The peer has shown that the stream is complete for it: it has ended a lane in order after its last
    /// acknowledgement, or said so.
    peer_is_complete: bool,
    failure: Option<RelayError>,
    abort: Abort,
    /// When the first lane has failed after the last progress.
    failing_since: Option<Instant>,
    /// When something was last sent again.
    resent_at: Option<Instant>,
    /// Nothing is acknowledged although there is something to acknowledge.
    stall: Option<Stall>,
    /// Every lane has to end at once.
    stopped: bool,
}

/// Whether the peer is sent that this end has given up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Abort {
    No,
    Due,
    Sent,
}

impl State {
    /// Both directions have ended, and the peer was sent the last acknowledgement.
    fn is_complete(&self) -> bool {
        self.sender.is_complete()
            && self.receiver.is_complete()
            && !self.receiver.acknowledgement_due()
    }

    /// Whether the stream can be complete for the peer, which then has received all data of this end, and
    /// the acknowledgement of all of its own.
    fn peer_can_be_complete(&self) -> bool {
        self.receiver.is_complete() && self.sender.has_ended()
    }

    fn is_over(&self) -> bool {
        self.stopped || self.abort != Abort::No || (self.is_complete() && self.peer_is_complete)
    }

    /// Whether the window has no room for a whole chunk.
    fn has_full_window(&self) -> bool {
        self.sender.room() < MAX_PAYLOAD as u64
    }

    /// Whether lanes on several threads wait for each other to read or write the local socket.
    fn is_shared(&self) -> bool {
        self.lanes > 1
    }

    /// How a lane learns that the local socket is not ready.
    fn readiness(&self) -> Readiness {
        match self.is_shared() {
            true => Readiness::Asked,
            false => Readiness::Registered,
        }
    }

    /// Whether data for the local program is not delivered any more.
    fn has_failed(&self) -> bool {
        self.failure.is_some() || self.abort != Abort::No
    }

    fn fail(&mut self, error: RelayError) {
        self.failure.get_or_insert(error);
    }

    /// Something was transferred. Without a lane, it is only what has arrived before.
    fn progressed(&mut self) {
        if self.lanes > 0 {
            self.failing_since = None;
        }
    }

    /// Whether there is a lane, and nothing had to be sent again for this time.
    fn has_healed(&self, time: Duration) -> bool {
        self.lanes > 0 && self.resent_at.is_none_or(|at| at.elapsed() >= time)
    }
}

impl Stream {
    /// `window`: the most bytes that the peer may send before the local program takes them. `pipes`: those
    /// of the process.
    pub(crate) fn new(
        local: Arc<Local>,
        counters: Arc<Counters>,
        window: u32,
        compression: StreamCompression,
        pipes: Arc<PipePool>,
    ) -> Self {
        Self {
            local,
            counters,
            compression,
            pipes: Pipes::new(pipes),
            preemption: Preemption::new(),
            reading: AtomicBool::new(false),
            turn: Notify::new(),
            state: Mutex::new(State {
                sender: Sender::new(INITIAL_WINDOW),
                receiver: Receiver::new(INITIAL_WINDOW, window),
                buffers: Buffers::default(),
                chunks: Chunks::default(),
                opened: 0,
                lanes: 0,
                local_ended: false,
                dropping: false,
                peer_is_complete: false,
                failure: None,
                abort: Abort::No,
                failing_since: None,
                resent_at: None,
                stall: None,
                stopped: false,
            }),
            progress: Progress::default(),
            work: Notify::new(),
            stored: Notify::new(),
            sent: Notify::new(),
            changed: Notify::new(),
        }
    }

    /// Whether data is moved through pipes, if lanes share the local socket.
    fn uses_pipes(&self) -> bool {
        self.preemption.is_likely(Instant::now)
    }

    /// An empty pipe, if one is useful and the stream may use one more.
    fn pipe(&self) -> Option<SharedPipe> {
        self.uses_pipes().then(|| self.pipes.take()).flatten()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Waits until the stream is complete or has failed. Meanwhile it writes stored data to the local
    /// socket. After a failure, the local program's earlier data is still sent, for a limited time.
    pub(crate) async fn run(&self) -> Result<(), RelayError> {
        tokio::select! {
            () = self.until(|state| state.failure.is_some() || state.is_complete()) => {}
            never = self.write_stored() => match never {},
            never = self.acknowledge_at_intervals() => match never {},
        }
        let failure = self.state().failure.take();
        let Some(error) = failure else {
            self.wake_all();
            return Ok(());
        };
        if let RelayError::Undelivered = error {
            let sent = |state: &State| state.local_ended && state.sender.is_acknowledged();
            let _ = timeout(DRAIN_TIMEOUT, self.until(sent)).await;
        }
        Err(error)
    }

    /// Requests that the peer is sent that this end has given up.
    pub(crate) fn abort(&self) {
        self.state().abort = Abort::Due;
        self.wake_all();
    }

    /// Fails the stream from outside.
    pub(crate) fn fail(&self, error: RelayError) {
        self.state().fail(error);
        self.wake_all();
    }

    /// Waits until the peer was sent that this end has given up, or has no lane.
    pub(crate) async fn aborted(&self) {
        self.until(|state| state.abort == Abort::Sent || state.lanes == 0)
            .await;
    }

    /// Waits until the peer has shown that the stream is complete for it, too.
    pub(crate) async fn confirmed(&self) {
        self.until(|state| state.peer_is_complete).await;
    }

    /// Waits until all lanes have ended.
    pub(crate) async fn without_lanes(&self) {
        self.until(|state| state.lanes == 0).await;
    }

    /// Waits until lanes have failed for `limit`, from the first failure on, and nothing was transferred
    /// meanwhile: there is no lane, or each one that data is sent on fails again. A local program that
    /// does not read is no failure.
    pub(crate) async fn without_progress_for(&self, limit: Duration) {
        loop {
            let rest = {
                let state = &mut *self.state();
                let rest = state
                    .failing_since
                    .map(|since| limit.saturating_sub(since.elapsed()));
                match rest {
                    // The last data that was sent again has arrived, or its lane would have failed.
                    Some(Duration::ZERO) if state.has_healed(limit / 2) => {
                        state.failing_since = None;
                        None
                    }
                    rest => rest,
                }
            };
            match rest {
                Some(Duration::ZERO) => return,
                Some(rest) => sleep(rest).await,
                None => self.until(|state| state.failing_since.is_some()).await,
            }
        }
    }

    /// The number of its lanes that are open.
    pub(crate) fn lanes(&self) -> usize {
        self.state().lanes
    }

    /// If the window is full, so that no lane may send: the bytes in it for each lane, on their way or at
    /// the target.
    pub(crate) fn full_window(&self) -> Option<u64> {
        let state = self.state();
        let bytes = state.sender.unacknowledged();
        (bytes > 0 && state.has_full_window()).then(|| bytes / state.lanes.max(1) as u64)
    }

    /// Ends every lane at once, and lanes that begin later.
    pub(crate) async fn stop(&self) {
        self.state().stopped = true;
        self.wake_all();
        self.without_lanes().await;
    }

    /// Whether lanes are useless: the stream has failed, or is complete for both ends.
    pub(crate) fn is_over(&self) -> bool {
        self.state().is_over()
    }

    /// Waits for that.
    pub(crate) async fn over(&self) {
        self.until(State::is_over).await;
    }

    /// The peer has reported that the stream is complete for it, so it has received everything.
    pub(crate) fn confirm(&self) {
        let mut state = self.state();
        let state = &mut *state;
        state.peer_is_complete = true;
        match state.peer_can_be_complete() {
            true => {
                state.sender.acknowledge_all();
                let _ = state.receiver.acknowledge();
            }
            false => state.fail(RelayError::Aborted),
        }
        self.wake_all();
    }

    async fn until(&self, condition: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if condition(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    fn wake_all(&self) {
        self.work.notify_waiters();
        self.work.notify_one();
        self.turn.notify_waiters();
        self.changed.notify_waiters();
    }

    /// Lets a lane send what is due: this one, unless it is busy.
    fn wake_sender(&self, lane: &OpenLane<'_>) {
        match lane.is_sending() {
            true => self.work.notify_one(),
            false => lane.wake(),
        }
    }

    /// Acknowledges what too little data follows: the peer keeps it until then.
    async fn acknowledge_at_intervals(&self) -> Infallible {
        loop {
            sleep(ACKNOWLEDGEMENT_INTERVAL).await;
            let mut state = self.state();
            state.receiver.request_acknowledgement();
            if state.receiver.acknowledgement_due() {
                self.work.notify_one();
            }
        }
    }

    /// Begins a lane.
    fn begin<'a>(&'a self, way: Way<'a>) -> OpenLane<'a> {
        let mut state = self.state();
        let id = LaneId(state.opened);
        state.opened += 1;
        state.lanes += 1;
        self.counters.lanes.open(state.lanes);
        drop(state);
        self.changed.notify_waiters();
        OpenLane::new(self, id, way)
    }

    /// A lane has ended. What it may have lost is sent again on another one.
    fn end(&self, id: LaneId) {
        let mut state = self.state();
        state.lanes -= 1;
        state.failing_since.get_or_insert_with(Instant::now);
        state.sender.lane_failed(id);
        if !state.peer_is_complete {
            state.receiver.lane_failed();
        }
        drop(state);
        self.wake_all();
    }
}

impl From<Violation> for RelayError {
    fn from(violation: Violation) -> Self {
        Self::Protocol(violation.to_string())
    }
}
