//! One lane: its loops for sending and receiving.

use super::super::layout::Layout;
use super::super::{Incoming, Outgoing, Received, RelayError, Turn};
use super::delivery::{Delivered, Run};
use super::{Abort, State, Stream};
use crate::lanes::{Frame, HEADER, LaneId, Parsed, Parser, Violation};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Time limit for an orderly close, from the end of this end's direction.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a lane has ended before its stream.
#[derive(Debug, Error)]
pub(crate) enum LaneError {
    /// It broke while sending.
    #[error("sending failed: {0}")]
    Send(io::Error),
    /// It broke while receiving.
    #[error("receiving failed: {0}")]
    Receive(io::Error),
    /// It ended without an announcement.
    #[error("it ended without an announcement")]
    Cut,
    /// The stream has failed.
    #[error("the stream has failed")]
    Stream,
}

/// What a lane does next.
enum Step {
    /// Send this header, and after it the bytes that are in the buffer.
    Send(Frame, usize),
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
    /// Serves a lane until it ends, in order or by a failure. What it may have lost is then sent again
    /// on another lane.
    pub(crate) async fn serve<O: Outgoing, I: Incoming>(
        &self,
        mut outgoing: O,
        mut incoming: I,
    ) -> Result<(), LaneError> {
        let lane = self.begin();
        {
            let up = self.send_all(&lane, &mut outgoing);
            let down = self.receive_all(&lane, &mut incoming);
            tokio::pin!(up, down);
            tokio::select! {
                result = &mut up => match result {
                    // The peer closes its direction, too, when the stream is complete for it.
                    Ok(()) => timeout(CLOSE_TIMEOUT, down).await.unwrap_or(Err(LaneError::Cut)),
                    Err(LaneError::Stream) => {
                        // A close with unread data would reset the connection, and the peer could miss
                        // the announcement of the failure.
                        let _ = timeout(CLOSE_TIMEOUT, down).await;
                        Err(LaneError::Stream)
                    }
                    Err(error) => Err(error),
                },
                result = &mut down => match result {
                    Ok(()) => timeout(CLOSE_TIMEOUT, up).await.unwrap_or(Err(LaneError::Cut)),
                    Err(error) => Err(error),
                },
                () = self.until(|state| state.stopped) => Err(LaneError::Stream),
            }
        }
    }

    async fn send_all<O: Outgoing>(
        &self,
        lane: &OpenLane<'_>,
        outgoing: &mut O,
    ) -> Result<(), LaneError> {
        let layout = Layout {
            before: O::ROOM,
            payload: O::MAX,
            after: O::AFTER,
            pieces: O::PIECES,
            reserved: HEADER,
        };
        let mut buffer = vec![0; layout.size()];
        let mut turn = Turn::default();
        loop {
            let woken = self.work.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let step = self.next_step(lane.id, layout, &mut buffer);
            let (frame, count) = match step {
                Step::Send(frame, count) => (frame, count),
                Step::Abort => (Frame::Abort, 0),
                Step::Wait => {
                    tokio::select! {
                        () = woken => {}
                        () = lane.woken.notified() => {}
                        () = outgoing.control_pending() => {
                            outgoing.send_control().await.map_err(LaneError::Send)?;
                        }
                    }
                    continue;
                }
                Step::Read => {
                    let read = tokio::select! {
                        biased;
                        () = woken => continue,
                        () = lane.woken.notified() => continue,
                        read = self.read(lane.id, layout, &mut buffer) => read,
                    };
                    match read {
                        Some(read) => read,
                        None => continue,
                    }
                }
                Step::Finish => return outgoing.finish().await.map_err(LaneError::Send),
                Step::Stop => return Err(LaneError::Stream),
            };
            buffer[layout.reserved()].copy_from_slice(&frame.encode());
            let sent = outgoing.send(&mut buffer[..layout.used(count)]);
            self.or_hand_over(lane, sent)
                .await
                .map_err(LaneError::Send)?;
            if frame == Frame::Abort {
                self.state().abort = Abort::Sent;
                self.wake_all();
                return Err(LaneError::Stream);
            }
            turn.moved(count).await;
        }
    }

    /// Sends. If the connection does not take it at once, other lanes read and acknowledge meanwhile.
    async fn or_hand_over<T>(&self, lane: &OpenLane<'_>, sent: impl Future<Output = T>) -> T {
        let mut sent = pin!(sent);
        let result = poll_fn(|context| {
            let polled = sent.as_mut().poll(context);
            if polled.is_pending() && !lane.sending.swap(true, Ordering::Relaxed) {
                self.turn.notify_last();
            }
            polled
        })
        .await;
        lane.sending.store(false, Ordering::Relaxed);
        result
    }

    /// Decides what to send, and puts the bytes that are sent again into the buffer.
    fn next_step(&self, id: LaneId, layout: Layout, buffer: &mut [u8]) -> Step {
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
            return Step::Send(frame, 0);
        }
        if let Some(again) = state.sender.resend(id) {
            let step = match again.payload {
                Some(bytes) => {
                    fill(layout, buffer, bytes);
                    let count = bytes.len();
                    Step::Send(data(again.offset, count), count)
                }
                None => {
                    let offset = again.offset;
                    Step::Send(Frame::End { offset }, 0)
                }
            };
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
            return Step::Send(Frame::End { offset }, 0);
        }
        Step::Read
    }

    /// Waits for the turn to read the local socket, and for room for what is read.
    async fn turn(&self, layout: Layout) -> Reading<'_> {
        loop {
            let turn = self.turn.notified();
            tokio::pin!(turn);
            turn.as_mut().enable();
            let has_room = self.state().sender.room() >= layout.capacity() as u64;
            if has_room && !self.reading.swap(true, Ordering::Acquire) {
                return Reading(&self.reading);
            }
            turn.await;
        }
    }

    /// Reads new data of the local program in turn. None if its stream has ended.
    async fn read(&self, id: LaneId, layout: Layout, buffer: &mut [u8]) -> Option<(Frame, usize)> {
        let reading = self.turn(layout).await;
        if self.state().local_ended {
            return None;
        }
        let count = match self.local.read_around(buffer, layout).await {
            Ok(count) => count,
            Err(error) => {
                self.fail(RelayError::Local(error));
                return None;
            }
        };
        if count == 0 {
            let mut state = self.state();
            if let Err(error) = self.progress.may_finish(&self.local) {
                state.fail(error);
            }
            state.local_ended = true;
            drop(state);
            self.wake_all();
            return None;
        }
        let mut kept = self.state().buffer(count);
        let (slices, pieces) = layout.slices(buffer, count);
        for slice in &slices[..pieces] {
            kept.extend_from_slice(slice);
        }
        let offset = self.state().sender.push(count, kept, id);
        drop(reading);
        self.sent.notify_waiters();
        if count == layout.capacity() {
            // The local program is faster than this lane.
            self.turn.notify_last();
        }
        let sent = &self.counters.sent;
        sent.fetch_add(count as u64, Ordering::Relaxed);
        Some((data(offset, count), count))
    }

    async fn receive_all<I: Incoming>(
        &self,
        lane: &OpenLane<'_>,
        incoming: &mut I,
    ) -> Result<(), LaneError> {
        let mut parser = Parser::default();
        let mut turn = Turn::default();
        loop {
            let pieces = match incoming.next().await.map_err(LaneError::Receive)? {
                Received::Data(pieces) => pieces,
                Received::End if parser.is_between_frames() => {
                    self.state().peer_is_complete = true;
                    self.changed.notify_waiters();
                    return Ok(());
                }
                Received::End | Received::Stopped => return Err(LaneError::Cut),
            };
            let mut run = Run::new();
            for piece in pieces.iter() {
                let mut rest = piece;
                while let Some(parsed) = self.parse(&mut parser, &mut rest)? {
                    match parsed {
                        Parsed::Payload { offset, bytes } => {
                            if !run.accepts(offset) {
                                self.deliver_run(lane, &mut run).await?;
                            }
                            run.add(offset, bytes);
                        }
                        Parsed::Frame(frame) => {
                            self.deliver_run(lane, &mut run).await?;
                            self.handle(lane, frame)?;
                        }
                    }
                }
            }
            self.deliver_run(lane, &mut run).await?;
            turn.moved(pieces.bytes()).await;
        }
    }

    fn parse<'a>(
        &self,
        parser: &mut Parser,
        bytes: &mut &'a [u8],
    ) -> Result<Option<Parsed<'a>>, LaneError> {
        parser
            .next(bytes)
            .map_err(|error| self.violated(RelayError::Protocol(error.to_string())))
    }

    /// The peer has sent what it must not send: nothing that it sends can be trusted.
    fn violated(&self, error: RelayError) -> LaneError {
        self.fail(error);
        LaneError::Stream
    }

    /// Delivers a run of data. Waits for the local program only as long as the peer has nothing to
    /// acknowledge: the acknowledgement may be behind this data.
    async fn deliver_run(&self, lane: &OpenLane<'_>, run: &mut Run<'_>) -> Result<(), LaneError> {
        let mut run = std::mem::replace(run, Run::new());
        let mut store = false;
        while !run.is_empty() {
            let sent = self.sent.notified();
            tokio::pin!(sent);
            sent.as_mut().enable();
            store |= self.must_not_wait();
            match self.deliver(lane, &mut run, store) {
                Ok(Delivered::Whole) => break,
                Ok(Delivered::Blocked) => {
                    tokio::select! {
                        () = sent => store = true,
                        // An error shows with the next write.
                        _ = self.local.writable() => {}
                    }
                }
                Err(error) => return Err(self.violated(error)),
            }
        }
        Ok(())
    }

    fn must_not_wait(&self) -> bool {
        let State { sender, lanes, .. } = &*self.state();
        *lanes > 1 || !sender.is_acknowledged()
    }

    fn handle(&self, lane: &OpenLane<'_>, frame: Frame) -> Result<(), LaneError> {
        let mut state = self.state();
        let handled = match frame {
            Frame::Data { .. } => Ok(()),
            Frame::Zeros { offset, count } => state.receiver.store_zeros(offset, count),
            Frame::End { offset } => state.receiver.end(offset),
            Frame::Acknowledgement { offset, window } => {
                self.acknowledged(&mut state, offset, window)
            }
            Frame::Abort => {
                drop(state);
                return Err(self.violated(RelayError::Aborted));
            }
        };
        drop(state);
        handled.map_err(|violation| self.violated(violation.into()))?;
        self.deliver_stored(lane);
        Ok(())
    }

    /// The peer has acknowledged data, and there may be room for more.
    fn acknowledged(&self, state: &mut State, offset: u64, window: u32) -> Result<(), Violation> {
        let freed: Vec<_> = state.sender.acknowledge(offset, window)?.collect();
        if !freed.is_empty() {
            state.failing_since = None;
        }
        for buffer in freed {
            state.keep(buffer);
        }
        if state.sender.is_acknowledged() {
            self.changed.notify_waiters();
        }
        self.turn.notify_last();
        Ok(())
    }
}

fn data(offset: u64, count: usize) -> Frame {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    Frame::Data { offset, count }
}

fn fill(layout: Layout, buffer: &mut [u8], bytes: &[u8]) {
    let (mut slices, count) = layout.slices(buffer, bytes.len());
    let mut rest = bytes;
    for slice in &mut slices[..count] {
        let (part, later) = rest.split_at(slice.len());
        slice.copy_from_slice(part);
        rest = later;
    }
}

/// The turn to read the local socket.
struct Reading<'a>(&'a AtomicBool);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A lane that is open. Dropping it ends the lane.
pub(super) struct OpenLane<'a> {
    stream: &'a Stream,
    id: LaneId,
    /// Notified when this lane has something to send.
    woken: Notify,
    /// The connection does not take more at the moment.
    sending: AtomicBool,
}

impl<'a> OpenLane<'a> {
    pub(super) fn new(stream: &'a Stream, id: LaneId) -> Self {
        Self {
            stream,
            id,
            woken: Notify::new(),
            sending: AtomicBool::new(false),
        }
    }

    /// Whether this lane cannot send anything else at the moment.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Relaxed)
    }

    /// Lets it send what is due.
    pub(super) fn wake(&self) {
        self.woken.notify_one();
    }
}

impl Drop for OpenLane<'_> {
    fn drop(&mut self) {
        self.stream.end(self.id);
    }
}
