//! Received data that is delivered at once.

use std::io::IoSlice;

/// Slices of data that are delivered at once: the records of a buffer, and what a header divides.
const MAX_SLICES: usize = 16;

/// Pieces of data that follow each other.
pub(super) struct Run<'a> {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    slices: [IoSlice<'a>; MAX_SLICES],
    /// The slices in use.
    from: usize,
    to: usize,
}

impl<'a> Run<'a> {
    pub(super) fn new() -> Self {
        Self {
            offset: 0,
            bytes: 0,
            slices: [IoSlice::new(&[]); MAX_SLICES],
            from: 0,
            to: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn accepts(&self, offset: u64) -> bool {
        self.is_empty() || (self.to < MAX_SLICES && offset == self.offset + self.bytes)
    }

    pub(super) fn add(&mut self, offset: u64, bytes: &'a [u8]) {
        if self.is_empty() {
            self.offset = offset;
        }
        self.slices[self.to] = IoSlice::new(bytes);
        self.to += 1;
        self.bytes += bytes.len() as u64;
    }

    pub(super) fn slices(&self) -> &[IoSlice<'a>] {
        &self.slices[self.from..self.to]
    }

    /// Drops the first bytes.
    pub(super) fn advance(&mut self, count: usize) {
        let mut rest = &mut self.slices[self.from..self.to];
        IoSlice::advance_slices(&mut rest, count);
        self.from = self.to - rest.len();
        self.offset += count as u64;
        self.bytes -= count as u64;
    }
}
