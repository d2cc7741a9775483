//! Memory for received data of streams that is used again and again: buffers of one stream, and pipes of all
//! streams of a process.

use super::super::pipe::Pipe;
use crate::lanes::MAX_PAYLOAD;
use crate::system::lock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Least data that gets a buffer of the size of a chunk. Fewer bytes must not take the memory of many.
const LEAST: usize = MAX_PAYLOAD / 2;

/// Requested size of a pipe, in bytes: more than one lane receives at once.
const PIPE: usize = 256 << 10;

/// Pipes of all streams together, at most. Each takes two descriptors. Where there is none, data is copied
/// once more.
const MAX_PIPES: usize = 64;

/// Those that one stream uses, at most: one whose local program is slow leaves some to the others.
const MAX_OF_STREAM: usize = MAX_PIPES / 2;

/// The pipes of all streams.
#[derive(Debug, Default)]
pub(crate) struct PipePool(Mutex<PoolState>);

#[derive(Debug, Default)]
struct PoolState {
    /// Those that are empty.
    free: Vec<Pipe>,
    /// How many there are, with those in use.
    pipes: usize,
}

impl PipePool {
    /// An empty pipe, if there may be one more.
    fn take(&self) -> Option<Pipe> {
        let mut state = lock(&self.0);
        if let Some(pipe) = state.free.pop() {
            return Some(pipe);
        }
        if state.pipes >= MAX_PIPES {
            return None;
        }
        let pipe = Pipe::new(PIPE).ok()?;
        state.pipes += 1;
        Some(pipe)
    }

    /// Takes back a pipe: none if it was closed.
    fn put(&self, empty: Option<Pipe>) {
        let mut state = lock(&self.0);
        match empty {
            Some(pipe) => state.free.push(pipe),
            None => state.pipes -= 1,
        }
    }
}

/// The pipes of one stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Pipes {
    pool: Arc<PipePool>,
    /// How many of them the stream uses.
    used: Arc<AtomicUsize>,
}

impl Pipes {
    pub(super) fn new(pool: Arc<PipePool>) -> Self {
        Self {
            pool,
            used: Arc::default(),
        }
    }

    /// An empty pipe, if the stream may use one more.
    pub(super) fn take(&self) -> Option<SharedPipe> {
        // What other threads take at the same time does not matter.
        if self.used.load(Ordering::Relaxed) >= MAX_OF_STREAM {
            return None;
        }
        let pipe = self.pool.take()?;
        self.used.fetch_add(1, Ordering::Relaxed);
        Some(SharedPipe {
            pipe,
            lease: Lease {
                of: self.clone(),
                empty: None,
            },
        })
    }
}

/// One of the pipes, in use. Dropping it closes the pipe, with what it holds.
#[derive(Debug)]
pub(super) struct SharedPipe {
    pipe: Pipe,
    lease: Lease,
}

impl SharedPipe {
    /// Keeps the pipe, which is empty, for other data.
    pub(super) fn keep(self) {
        let Self { pipe, mut lease } = self;
        lease.empty = Some(pipe);
    }
}

impl AsRef<Pipe> for SharedPipe {
    fn as_ref(&self) -> &Pipe {
        &self.pipe
    }
}

/// The use of a pipe. Dropping it ends the use.
#[derive(Debug)]
struct Lease {
    of: Pipes,
    /// The pipe, if it is returned.
    empty: Option<Pipe>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.of.pool.put(self.empty.take());
        self.of.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Buffers that are free for other data of the stream. New memory for each burst would cost more than the
/// copy into it. There are as many as were in use at once, which the windows limit.
#[derive(Default)]
pub(super) struct Buffers(Vec<Vec<u8>>);

impl Buffers {
    /// Keeps the buffer of a chunk.
    pub(super) fn keep(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() == MAX_PAYLOAD {
            buffer.clear();
            self.0.push(buffer);
        }
    }

    /// An empty buffer for so many bytes.
    pub(super) fn take(&mut self, count: usize) -> Vec<u8> {
        match (LEAST..=MAX_PAYLOAD).contains(&count) {
            true => self.0.pop(),
            false => Some(Vec::with_capacity(count)),
        }
        .unwrap_or_else(|| Vec::with_capacity(MAX_PAYLOAD))
    }
}

#[cfg(test)]
impl Pipes {
    /// The empty pipes of all streams.
    pub(super) fn free(&self) -> usize {
        lock(&self.pool.0).free.len()
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stream_leaves_pipes_to_others_and_returns_what_it_has_used() {
        let pool = Arc::new(PipePool::default());
        let (first, second, third) = (
            Pipes::new(pool.clone()),
            Pipes::new(pool.clone()),
            Pipes::new(pool),
        );
        let all = |pipes: &Pipes| std::iter::from_fn(|| pipes.take()).collect::<Vec<_>>();
        let of_first = all(&first);
        assert_eq!(of_first.len(), MAX_OF_STREAM);
        let of_second = all(&second);
        assert_eq!(of_second.len(), MAX_PIPES - MAX_OF_STREAM);
        assert!(third.take().is_none());
        of_first.into_iter().for_each(SharedPipe::keep);
        drop(of_second);
        assert_eq!(
            (first.free(), first.used(), second.used()),
            (MAX_OF_STREAM, 0, 0)
        );
        assert_eq!(all(&third).len(), MAX_OF_STREAM);
    }

    #[test]
    fn buffers_of_chunks_are_used_again_and_small_data_takes_little_memory() {
        let mut buffers = Buffers::default();
        let small = buffers.take(10);
        assert!(small.capacity() < 100);
        buffers.keep(small);
        let mut large = buffers.take(MAX_PAYLOAD - 1);
        large.push(1);
        let place = large.as_ptr();
        buffers.keep(large);
        let again = buffers.take(MAX_PAYLOAD);
        assert!(again.is_empty() && again.as_ptr() == place);
    }
}
