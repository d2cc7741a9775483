//! The streams of a migration whose connections are lanes, by their ID.

use super::connection::Connection;
use crate::direct::handshake::StreamId;
use crate::lanes::LANES;
use crate::relay::Stream;
use crate::system::lock;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Streams whose end is remembered, so that a lane whose source has missed it gets the right answer.
const MAX_ENDED: usize = 1024;

/// All streams.
#[derive(Default)]
pub(super) struct Streams(Mutex<State>);

#[derive(Default)]
struct State {
    streams: HashMap<StreamId, Entry>,
    /// The ended ones, oldest first.
    ended: VecDeque<StreamId>,
}

enum Entry {
    Open {
        number: u32,
        stream: Arc<Stream>,
        connection: Arc<Connection>,
        /// Those that the stream may still have.
        lanes: Arc<Semaphore>,
    },
    Complete,
    Failed,
}

/// The answer to a lane.
pub(super) enum Joined {
    /// The permit is for one lane.
    Open(Arc<Stream>, Arc<Connection>, OwnedSemaphorePermit),
    /// The stream has as many lanes as it may have.
    Full,
    Complete,
    None,
}

impl Streams {
    /// Adds a stream of a forward. Returns the permit for its first lane.
    pub(super) fn begin(
        &self,
        id: StreamId,
        number: u32,
        stream: Arc<Stream>,
        connection: Arc<Connection>,
    ) -> Option<OwnedSemaphorePermit> {
        let lanes = Arc::new(Semaphore::new((*LANES.end()).into()));
        let first = lanes.clone().try_acquire_owned().ok();
        let entry = Entry::Open {
            number,
            stream,
            connection,
            lanes,
        };
        lock(&self.0).streams.insert(id, entry);
        first
    }

    /// Whether there is a stream of this ID, or was one.
    pub(super) fn contains(&self, id: StreamId) -> bool {
        lock(&self.0).streams.contains_key(&id)
    }

    /// Records the end of a stream.
    pub(super) fn end(&self, id: StreamId, is_complete: bool) {
        let state = &mut *lock(&self.0);
        let entry = match is_complete {
            true => Entry::Complete,
            false => Entry::Failed,
        };
        state.streams.insert(id, entry);
        state.ended.push_back(id);
        if state.ended.len() > MAX_ENDED {
            if let Some(oldest) = state.ended.pop_front() {
                state.streams.remove(&oldest);
            }
        }
    }

    /// The stream that a lane to that forward joins.
    pub(super) fn join(&self, id: StreamId, number: u32) -> Joined {
        match lock(&self.0).streams.get(&id) {
            Some(Entry::Open {
                number: own,
                stream,
                connection,
                lanes,
            }) if *own == number => match lanes.clone().try_acquire_owned() {
                Ok(permit) => Joined::Open(stream.clone(), connection.clone(), permit),
                Err(_) => Joined::Full,
            },
            Some(Entry::Complete) => Joined::Complete,
            Some(Entry::Failed | Entry::Open { .. }) | None => Joined::None,
        }
    }
}
