//! New data of the local program, which lanes read in turn.
//!
//! Where threads lose their cores within turns, a turn is only for moving data out of the socket into a
//! pipe, see [`super::preemption`].

use super::super::RelayError;
use super::super::local::Registration;
use super::kept::ReadBuffer;
use super::outbound::Outbound;
use super::pool::SharedPipe;
use super::{Content, Stream, zeros};
use crate::lanes::{Frame, LaneId, length};
use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What a lane needs to read.
pub(super) struct Reader {
    /// Most bytes that are read at once.
    capacity: usize,
    buffer: ReadBuffer,
    registration: Registration,
    /// Zeros that were read with the data that was sent last.
    pub(super) zeros: VecDeque<Frame>,
}

impl Reader {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            buffer: ReadBuffer::new(),
            registration: Registration::default(),
            zeros: VecDeque::new(),
        }
    }
}

/// New data.
struct Fresh {
    offset: u64,
    count: usize,
    /// What it is in, if it is not in memory.
    pipe: Option<SharedPipe>,
}

impl Stream {
    /// Reads new data of the local program. Returns what is sent first; zeros that were read with it
    /// follow. None if the direction has ended, or the stream has failed.
    pub(super) async fn read(&self, id: LaneId, reader: &mut Reader) -> Option<Outbound> {
        let read = self.read_in_turn(id, reader).await;
        let fresh = read.unwrap_or_else(|error| {
            self.reading_failed(error);
            None
        })?;
        let Fresh {
            offset,
            count,
            pipe,
        } = fresh;
        if count == reader.capacity {
            // The local program is faster than this lane.
            self.turn.notify_last();
        }
        let memory = &mut reader.buffer.memory()[..count];
        if let Some(pipe) = pipe {
            if let Err(error) = pipe.as_ref().read(&mut [IoSliceMut::new(memory)]) {
                self.reading_failed(RelayError::Pipe(error));
                return None;
            }
            pipe.keep();
        }
        let part = zeros::data_range(memory);
        let (before, after) = (part.start, count - part.end);
        let mut state = self.state();
        let kept = reader.buffer.keep(part.clone(), &mut state.chunks);
        let chunks = [
            (before, Content::Zeros(length(before))),
            (part.len(), Content::Bytes(kept.clone())),
            (after, Content::Zeros(length(after))),
        ];
        let chunks = chunks.into_iter().filter(|(length, _)| *length > 0);
        state.sender.fill(offset, chunks);
        drop(state);
        self.sent.notify_waiters();
        let sent = &self.counters.sent;
        sent.fetch_add(count as u64, Ordering::Relaxed);
        self.counters.lanes.zeros(before + after);
        for (at, zeros) in [(0, before), (part.end, after)] {
            let (offset, count) = (offset + at as u64, length(zeros));
            let frame = Frame::Zeros { offset, count };
            reader.zeros.extend((zeros > 0).then_some(frame));
        }
        match part.is_empty() {
            false => Some(Outbound::data(offset + before as u64, kept)),
            true => reader.zeros.pop_front().map(Outbound::from),
        }
    }

    /// The stream has failed, and no lane reads any more.
    fn reading_failed(&self, error: RelayError) {
        let mut state = self.state();
        state.fail(error);
        state.local_ended = true;
        drop(state);
        self.wake_all();
    }

    /// Reads new data in turn, and reserves its place in the stream. None if the direction has ended.
    async fn read_in_turn(
        &self,
        id: LaneId,
        reader: &mut Reader,
    ) -> Result<Option<Fresh>, RelayError> {
        let Some(turn) = self.turn(reader).await else {
            return Ok(None);
        };
        let memory = &mut reader.buffer.memory()[..reader.capacity];
        let read = match turn.is_shared {
            true => {
                let mut from = None;
                // Called when more than little data is queued.
                let pipe = || {
                    from = Some(Instant::now());
                    self.pipe()
                };
                let registration = &mut reader.registration;
                let read = self.local.read_or_move(registration, memory, pipe).await;
                if let Some(from) = from {
                    self.preemption.held(from, Instant::now());
                }
                read
            }
            false => {
                let read = self.local.read(memory).await;
                read.map(|count| (count, None))
            }
        };
        let (count, pipe) = read.map_err(RelayError::Local)?;
        let state = &mut *self.state();
        if count == 0 {
            if let Err(error) = self.progress.may_finish(&self.local) {
                state.fail(error);
            }
            state.local_ended = true;
            self.wake_all();
            return Ok(None);
        }
        if let Some(stall) = &mut state.stall {
            stall.sent(id);
        }
        Ok(Some(Fresh {
            offset: state.sender.reserve(count, id),
            count,
            pipe,
        }))
    }

    /// Waits for the turn to read the local socket, and for room for what is read. None if the local
    /// program has ended its direction.
    async fn turn(&self, reader: &mut Reader) -> Option<LocalTurn<'_>> {
        loop {
            let notified = self.turn.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            {
                let state = self.state();
                if state.local_ended {
                    return None;
                }
                let has_room = state.sender.room() >= reader.capacity as u64;
                // With the lock, because the direction ends in a turn.
                if has_room && !self.reading.swap(true, Ordering::Acquire) {
                    return Some(LocalTurn {
                        reading: &self.reading,
                        is_shared: state.is_shared(),
                    });
                }
            }
            // Events are for the lane whose turn it is.
            reader.registration.end();
            notified.await;
        }
    }
}

/// The turn to read the local socket.
struct LocalTurn<'a> {
    reading: &'a AtomicBool,
    /// Whether other lanes wait for its end.
    is_shared: bool,
}

impl Drop for LocalTurn<'_> {
    fn drop(&mut self) {
        self.reading.store(false, Ordering::Release);
    }
}
