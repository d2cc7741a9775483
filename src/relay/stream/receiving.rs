//! Frames that a lane receives.

use super::super::{Incoming, Received, RelayError, Turn};
use super::delivery::Delivered;
use super::lane::{LaneError, OpenLane};
use super::run::Run;
use super::{Content, State, Stream, StreamCompression};
use crate::lanes::{Decompressor, Frame, Parsed, Parser};
use std::time::Duration;
use tokio::time::timeout;

/// Waits for the next bytes of a lane, at most for this time.
async fn within<T>(limit: Option<Duration>, next: impl Future<Output = T>) -> Result<T, LaneError> {
    match limit {
        Some(limit) => timeout(limit, next)
            .await
            .map_err(|_| LaneError::Silent(limit)),
        None => Ok(next.await),
    }
}

impl Stream {
    /// Receives on a lane until the peer ends it, or the lane has failed.
    pub(super) async fn receive_all<I: Incoming>(
        &self,
        lane: &OpenLane<'_>,
        incoming: &mut I,
        silence: Option<Duration>,
    ) -> Result<(), LaneError> {
        let mut parser = Parser::default();
        let mut decompressor = Decompressor::default();
        let mut turn = Turn::default();
        loop {
            // The time in which this end does not read does not count.
            let received = within(silence, incoming.next()).await?;
            let pieces = match received.map_err(LaneError::Receive)? {
                Received::Data(pieces) => pieces,
                Received::End if I::HALF_CLOSE && parser.is_between_frames() => {
                    return self.ended_in_order();
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
                        Parsed::Compressed { offset, bytes } => {
                            self.deliver_run(lane, &mut run).await?;
                            let bytes = self.decompress(&mut decompressor, &bytes)?;
                            let mut run = Run::new();
                            run.add(offset, &bytes);
                            self.deliver_run(lane, &mut run).await?;
                        }
                    }
                }
            }
            self.deliver_run(lane, &mut run).await?;
            turn.moved(pieces.bytes()).await;
        }
    }

    /// The peer has ended a lane, which it does when the stream is complete for it. Without encryption,
    /// anything on the path can do so.
    fn ended_in_order(&self) -> Result<(), LaneError> {
        let mut state = self.state();
        if !state.peer_can_be_complete() {
            return Err(LaneError::Early);
        }
        // Before the last acknowledgement, this shows nothing: that is on its way on another lane, or lost.
        if state.sender.is_complete() {
            state.peer_is_complete = true;
            drop(state);
            self.changed.notify_waiters();
        }
        Ok(())
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

    fn decompress(
        &self,
        decompressor: &mut Decompressor,
        bytes: &[u8],
    ) -> Result<Vec<u8>, LaneError> {
        if self.compression != StreamCompression::Accepts {
            let reason = "compressed data, which this end does not accept".to_owned();
            return Err(self.violated(RelayError::Protocol(reason)));
        }
        let decompressed = decompressor.decompress(bytes);
        decompressed.map_err(|violation| self.violated(violation.into()))
    }

    /// The peer has sent what it must not send: nothing that it sends can be trusted.
    fn violated(&self, error: RelayError) -> LaneError {
        self.fail(error);
        LaneError::Violation
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
        if frame == Frame::Abort {
            self.fail(RelayError::Aborted);
            return Err(LaneError::Stream);
        }
        let handled = {
            let state = &mut *self.state();
            let handled = match frame {
                Frame::Zeros { offset, count } => state.receiver.store_zeros(offset, count),
                Frame::End { offset } => state.receiver.end(offset).map_err(RelayError::from),
                Frame::Acknowledgement { offset, window } => {
                    self.acknowledged(state, offset, window)
                }
                // The parser returns the payload instead.
                Frame::Data { .. } | Frame::Compressed { .. } | Frame::Abort => Ok(()),
                Frame::Alive => Ok(()),
            };
            if handled.is_ok() {
                self.deliver_stored(state, lane);
            }
            handled
        };
        handled.map_err(|error| self.violated(error))
    }

    /// The peer has acknowledged data, and there may be room for more.
    fn acknowledged(&self, state: &mut State, offset: u64, window: u32) -> Result<(), RelayError> {
        let before = state.sender.unacknowledged();
        for content in state.sender.acknowledge(offset, window)? {
            if let Content::Bytes(kept) = content {
                state.chunks.reuse(kept);
            }
        }
        if state.sender.unacknowledged() < before {
            state.progressed();
        }
        if state.sender.is_acknowledged() {
            self.changed.notify_waiters();
        }
        self.turn.notify_last();
        Ok(())
    }
}
