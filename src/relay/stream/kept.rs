//! Data of the local program that is kept until the peer has acknowledged it. It is read into the memory in
//! which it is kept, and sent from there.

use crate::lanes::MAX_PAYLOAD;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Least data that keeps the memory of a chunk. Fewer bytes must not take the memory of many: they are
/// copied.
const LEAST: usize = MAX_PAYLOAD / 2;

/// Data that is kept, and that a lane may be sending.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    memory: Arc<Vec<u8>>,
    part: Range<usize>,
}

impl Deref for Kept {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.part.clone()]
    }
}

/// Memory of whole chunks that is free for other data of the stream. New memory for each burst would cost
/// more than the copy into it. There is as much as was in use at once, which the windows limit.
#[derive(Debug, Default)]
pub(super) struct Chunks(Vec<Arc<Vec<u8>>>);

impl Chunks {
    fn take(&mut self) -> Arc<Vec<u8>> {
        self.0
            .pop()
            .unwrap_or_else(|| Arc::new(vec![0; MAX_PAYLOAD]))
    }

    /// Uses the memory of acknowledged data again, unless a lane still sends it.
    pub(super) fn reuse(&mut self, kept: Kept) {
        let Kept { mut memory, .. } = kept;
        if memory.len() == MAX_PAYLOAD && Arc::get_mut(&mut memory).is_some() {
            self.0.push(memory);
        }
    }
}

/// The memory into which a lane reads.
#[derive(Debug)]
pub(super) struct ReadBuffer {
    memory: Arc<Vec<u8>>,
}

impl ReadBuffer {
    pub(super) fn new() -> Self {
        Self {
            memory: Chunks::default().take(),
        }
    }

    pub(super) fn memory(&mut self) -> &mut [u8] {
        // Not shared, so it is not copied.
        Arc::make_mut(&mut self.memory).as_mut_slice()
    }

    /// Keeps a part of what was read.
    pub(super) fn keep(&mut self, part: Range<usize>, chunks: &mut Chunks) -> Kept {
        match part.len() {
            LEAST.. => Kept {
                memory: std::mem::replace(&mut self.memory, chunks.take()),
                part,
            },
            length => Kept {
                memory: Arc::new(self.memory[part].to_vec()),
                part: 0..length,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_chunks_is_used_again_and_small_data_takes_little() {
        let (mut buffer, mut chunks) = (ReadBuffer::new(), Chunks::default());
        buffer.memory()[..10].fill(1);
        let place = buffer.memory().as_ptr();
        let small = buffer.keep(2..10, &mut chunks);
        assert_eq!(*small, [1; 8]);
        assert_eq!(
            (small.memory.capacity(), buffer.memory().as_ptr()),
            (8, place)
        );
        chunks.reuse(small);

        let large = buffer.keep(1..1 + LEAST, &mut chunks);
        assert_eq!(
            (large.as_ptr(), large.len()),
            (place.wrapping_add(1), LEAST)
        );
        assert_ne!(buffer.memory().as_ptr(), place);
        chunks.reuse(large);
        buffer.keep(0..LEAST, &mut chunks);
        assert_eq!(buffer.memory().as_ptr(), place);
    }

    #[test]
    fn memory_of_data_that_a_lane_still_sends_is_not_used_again() {
        let (mut buffer, mut chunks) = (ReadBuffer::new(), Chunks::default());
        let kept = buffer.keep(0..MAX_PAYLOAD, &mut chunks);
        let sent = kept.clone();
        chunks.reuse(kept);
        assert!(chunks.0.is_empty());
        chunks.reuse(sent);
        assert_eq!(chunks.0.len(), 1);
    }
}
