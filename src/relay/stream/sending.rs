//! The local program's data, on its way to the lanes.

use super::super::{Outgoing, Turn, layout};
use super::compression::LaneCompression;
use super::lane::{LaneError, OpenLane};
use super::outbound::Outbound;
use super::reading::Reader;
use super::{Abort, Stream, StreamCompression, stall};
use crate::lanes::{Frame, HEADER, LaneId};
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::time::sleep_until;

/// What a lane does next.
enum Step {
    Send(Outbound),
    /// Send that this end has given up.
    Abort,
    /// Read new data.
    Read,
    /// Wait until there is something to do.
    Wait,
    /// Close the lane: the stream is complete.
    Finish,
    /// The stream has failed.
    Stop,
}

impl Stream {
    /// Sends on a lane until the stream is complete, or the lane has failed.
    pub(super) async fn send_all<O: Outgoing>(
        &self,
        lane: &OpenLane<'_>,
        outgoing: &mut O,
        alive_interval: Option<Duration>,
    ) -> Result<(), LaneError> {
        let mut buffer = Vec::new();
        let mut reader = Reader::new(layout::<O>(HEADER).capacity());
        let mut turn = Turn::default();
        let mut check = stall::checks();
        let alive_at = || alive_interval.map(|interval| Instant::now() + interval);
        let mut due = alive_at();
        let mut compression = match self.compression {
            StreamCompression::Sends => LaneCompression::new(),
            StreamCompression::None | StreamCompression::Accepts => None,
        };
        loop {
            let woken = self.work.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let alive = async move {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => pending().await,
                }
            };
            let step = match reader.zeros.pop_front() {
                Some(frame) => Step::Send(frame.into()),
                None => self.next_step(lane.id),
            };
            let next = match step {
                Step::Send(outbound) => Some(outbound),
                Step::Abort => Some(Frame::Abort.into()),
                Step::Wait => tokio::select! {
                    () = woken => None,
                    () = lane.woken.notified() => None,
                    () = outgoing.control_pending() => {
                        outgoing.send_control().await.map_err(LaneError::Send)?;
                        None
                    }
                    _ = check.tick() => self.reinject(lane, &mut check),
                    () = alive => Some(Frame::Alive.into()),
                },
                Step::Read => tokio::select! {
                    biased;
                    () = woken => None,
                    () = lane.woken.notified() => None,
                    read = self.read(lane.id, &mut reader) => read,
                    _ = check.tick() => self.reinject(lane, &mut check),
                    () = alive => Some(Frame::Alive.into()),
                },
                Step::Finish => return outgoing.finish().await.map_err(LaneError::Send),
                Step::Stop => return Err(LaneError::Stream),
            };
            let Some(Outbound { frame, payload }) = next else {
                continue;
            };
            let plain = payload.as_deref().unwrap_or_default();
            let (frame, wire) = match &mut compression {
                Some(compression) => compression.compress(frame, plain, &self.counters.lanes),
                None => (frame, plain),
            };
            let header = frame.encode();
            let sent = outgoing.send_from(&header, wire, &mut buffer);
            let (sent, blocked) = self.or_hand_over(lane, sent).await;
            sent.map_err(LaneError::Send)?;
            let count = wire.len();
            due = alive_at();
            if let Some(compression) = &mut compression {
                compression.sent(plain.len(), count, blocked);
            }
            // The peer may acknowledge it during the turn of another task, and its memory is used again.
            drop(payload);
            if frame == Frame::Abort {
                self.state().abort = Abort::Sent;
                self.wake_all();
                return Err(LaneError::Stream);
            }
            turn.moved(count).await;
        }
    }

    /// Sends. If the connection does not take it at once, other lanes read and acknowledge meanwhile.
    /// Returns also for how long it did not.
    async fn or_hand_over<T>(
        &self,
        lane: &OpenLane<'_>,
        sent: impl Future<Output = T>,
    ) -> (T, Duration) {
        let mut sent = pin!(sent);
        let mut blocked_since = None;
        let result = poll_fn(|context| {
            let polled = sent.as_mut().poll(context);
            if polled.is_pending() && !lane.sending.swap(true, Ordering::Relaxed) {
                blocked_since = Some(Instant::now());
                self.turn.notify_last();
            }
            polled
        })
        .await;
        lane.sending.store(false, Ordering::Relaxed);
        let blocked = blocked_since.map_or(Duration::ZERO, |since| since.elapsed());
        (result, blocked)
    }

    /// Decides what to send.
    fn next_step(&self, id: LaneId) -> Step {
        let mut state = self.state();
        match state.abort {
            Abort::No => {}
            Abort::Due => return Step::Abort,
            Abort::Sent => return Step::Stop,
        }
        if let Some((offset, window)) = state.receiver.acknowledge() {
            if state.is_complete() {
                self.changed.notify_waiters();
            }
            let frame = Frame::Acknowledgement { offset, window };
            return Step::Send(frame.into());
        }
        if let Some(resend) = state.sender.resend(id) {
            let step = Step::Send(Outbound::again(&resend, &self.counters.lanes));
            state.resent_at = Some(Instant::now());
            if state.sender.has_lost() {
                self.work.notify_one();
            }
            return step;
        }
        if state.is_complete() {
            return Step::Finish;
        }
        if state.local_ended {
            if state.sender.has_ended() || state.failure.is_some() {
                return Step::Wait;
            }
            let offset = state.sender.end(id);
            return Step::Send(Frame::End { offset }.into());
        }
        Step::Read
    }
}
