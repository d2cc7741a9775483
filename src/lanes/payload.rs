//! Data of a stream that is stored, wherever its bytes are.

use super::Violation;

/// Some bytes of a stream, which are taken from the front.
pub(crate) trait Payload: Sized {
    /// Why it cannot be stored.
    type Error: From<Violation>;

    /// The bytes that are left.
    fn len(&self) -> u64;

    /// Drops the first `count` bytes.
    fn skip(&mut self, count: u64);

    /// Takes the first `count` bytes, which may be all. What was dropped takes no memory any more.
    fn take_front(&mut self, count: u64) -> Result<Self, Self::Error>;
}

/// Bytes in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    buffer: Vec<u8>,
    skipped: usize,
}

impl Bytes {
    /// Those that are left.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.buffer[self.skipped..]
    }

    /// The buffer, for other data.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(buffer: Vec<u8>) -> Self {
        Self { buffer, skipped: 0 }
    }
}

impl Payload for Bytes {
    type Error = Violation;

    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn skip(&mut self, count: u64) {
        self.skipped += count as usize;
    }

    fn take_front(&mut self, count: u64) -> Result<Self, Violation> {
        if self.skipped == 0 && count == self.len() {
            return Ok(std::mem::take(self));
        }
        let front = self.as_slice()[..count as usize].to_vec();
        self.skip(count);
        Ok(front.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_part_takes_no_memory_for_the_rest() {
        let mut bytes = Bytes::from(vec![7; 1000]);
        bytes.skip(990);
        assert_eq!(bytes.take_front(3).unwrap().into_buffer(), [7; 3]);
        let last = bytes.take_front(7).unwrap();
        assert!(last.buffer.capacity() < 100);
        assert_eq!(last.as_slice(), [7; 7]);
        let whole = vec![1; 1000];
        let place = whole.as_ptr();
        let mut bytes = Bytes::from(whole);
        assert_eq!(bytes.take_front(1000).unwrap().buffer.as_ptr(), place);
    }
}
