//! Compressing what a lane sends.

use crate::lanes::{Benefit, Compressor, Frame, LaneCounters, Sent, length};
use std::time::{Duration, Instant};

/// The compression of one lane.
pub(super) struct LaneCompression {
    compressor: Compressor,
    benefit: Benefit,
    /// When the lane was last observed.
    at: Instant,
}

impl LaneCompression {
    /// None if there is no memory: the lane then sends data as it is.
    pub(super) fn new() -> Option<Self> {
        Some(Self {
            compressor: Compressor::new().ok()?,
            benefit: Benefit::new(),
            at: Instant::now(),
        })
    }

    /// Compresses a payload, if that helps. Returns what is to be sent: a frame and its payload.
    pub(super) fn compress<'a>(
        &'a mut self,
        frame: Frame,
        payload: &'a [u8],
        counters: &LaneCounters,
    ) -> (Frame, &'a [u8]) {
        let Frame::Data { offset, .. } = frame else {
            return (frame, payload);
        };
        if !self.benefit.compresses() {
            return (frame, payload);
        }
        match self.compressor.compress(payload) {
            None => (frame, payload),
            Some(bytes) => {
                counters.compressed(payload.len() - bytes.len());
                let count = length(bytes.len());
                (Frame::Compressed { offset, count }, bytes)
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
