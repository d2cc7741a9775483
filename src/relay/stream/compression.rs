//! Compressing what a lane sends.

use super::super::layout::Layout;
use crate::lanes::{Benefit, Compressor, Frame, LaneCounters, Sent, length};
use std::time::{Duration, Instant};

/// The compression of one lane.
pub(super) struct LaneCompression {
    compressor: Compressor,
    benefit: Benefit,
    /// The chunk in one piece.
    chunk: Vec<u8>,
    /// When the lane was last observed.
    at: Instant,
}

impl LaneCompression {
    /// None if there is no memory: the lane then sends data as it is.
    pub(super) fn new() -> Option<Self> {
        Some(Self {
            compressor: Compressor::new().ok()?,
            benefit: Benefit::new(),
            chunk: Vec::new(),
            at: Instant::now(),
        })
    }

    /// Compresses the data in a buffer, which is the payload of this frame, if that helps. Returns what
    /// is to be sent: a frame and the length of its payload.
    pub(super) fn compress(
        &mut self,
        frame: Frame,
        layout: Layout,
        buffer: &mut [u8],
        counters: &LaneCounters,
    ) -> (Frame, usize) {
        let Frame::Data { offset, count } = frame else {
            return (frame, 0);
        };
        let plain = count as usize;
        if !self.benefit.compresses() {
            return (frame, plain);
        }
        self.chunk.clear();
        let (slices, pieces) = layout.slices(buffer, plain);
        for slice in &slices[..pieces] {
            self.chunk.extend_from_slice(slice);
        }
        match self.compressor.compress(&self.chunk) {
            None => (frame, plain),
            Some(bytes) => {
                layout.fill(buffer, bytes);
                counters.compressed(plain - bytes.len());
                let count = length(bytes.len());
                (Frame::Compressed { offset, count }, bytes.len())
            }
        }
    }

    /// A chunk was sent: so many bytes of the stream, as so many bytes. `blocked`: how long the
    /// connection did not take them.
    pub(super) fn sent(&mut self, plain: usize, wire: usize, blocked: Duration) {
        let now = Instant::now();
        self.benefit.observe(Sent {
            elapsed: now - self.at,
            blocked,
            plain: plain as u64,
            wire: wire as u64,
        });
        self.at = now;
    }
}
