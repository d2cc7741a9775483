//! Compressed data of a stream: one frame of Zstandard (RFC 8878) for each chunk.
//!
//! * this file: the frames.
//! * `benefit`: whether compressing helps, found while the stream runs.

mod benefit;

pub(crate) use benefit::{Benefit, Sent};

use super::{MAX_PAYLOAD, Violation};
use crate::scalar;
use serde::{Deserialize, Serialize};
use std::io;
use zstd::bulk;
use zstd::zstd_safe::{find_frame_compressed_size, get_frame_content_size};

/// What an administrator requests for the data of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Data is sent as it is.
    #[default]
    None,
    /// Data is compressed by Zstandard where that makes the stream faster.
    Zstd,
}

impl Compression {
    const ALL: [Self; 2] = [Self::None, Self::Zstd];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd => "zstd",
        }
    }

    /// Reads a value of the configuration. The error is what is wrong with it, as a sentence.
    pub(crate) fn from_text(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|known| known.name() == text);
        known.ok_or_else(|| {
            let shown = scalar::shown(text);
            format!("{shown} is not a compression, expected one of: none, zstd")
        })
    }
}

/// The level of Zstandard: the fastest of its regular ones. A migration has no core to spare.
const LEVEL: i32 = 1;

/// A compressed chunk must be smaller by one of so many parts, because it has to be decompressed, too.
const MIN_SAVED: usize = 16;

/// Compresses chunks.
pub(crate) struct Compressor {
    context: bulk::Compressor<'static>,
    compressed: Vec<u8>,
}

impl Compressor {
    /// Fails if there is no memory.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            context: bulk::Compressor::new(LEVEL)?,
            compressed: Vec::new(),
        })
    }

    /// The frame of a chunk. None if it is hardly smaller than the chunk, which has at most
    /// [`MAX_PAYLOAD`] bytes.
    pub(crate) fn compress(&mut self, chunk: &[u8]) -> Option<&[u8]> {
        let most = chunk.len() - chunk.len().div_ceil(MIN_SAVED);
        self.compressed.resize(most, 0);
        // The only error is that the result is larger than the buffer.
        let context = &mut self.context;
        let bytes = context.compress_to_buffer(chunk, &mut self.compressed[..]);
        Some(&self.compressed[..bytes.ok()?])
    }
}

/// Decompresses chunks. Allocates nothing before the first one.
#[derive(Default)]
pub(crate) struct Decompressor(Option<bulk::Decompressor<'static>>);

impl Decompressor {
    /// The chunk of a frame. The frame must be the only one in these bytes, and contain its size: what
    /// is allocated never depends on compressed data.
    pub(crate) fn decompress(&mut self, frame: &[u8]) -> Result<Vec<u8>, Violation> {
        let damaged = |_| Violation::Compressed;
        if find_frame_compressed_size(frame) != Ok(frame.len()) {
            return Err(Violation::Compressed);
        }
        let size = match get_frame_content_size(frame) {
            Ok(Some(size)) if (1..=MAX_PAYLOAD as u64).contains(&size) => size as usize,
            _ => return Err(Violation::Compressed),
        };
        let mut chunk = vec![0; size];
        let context = match &mut self.0 {
            Some(context) => context,
            none => none.insert(bulk::Decompressor::new().map_err(damaged)?),
        };
        match context.decompress_to_buffer(frame, &mut chunk[..]) {
            Ok(bytes) if bytes == size => Ok(chunk),
            _ => Err(Violation::Compressed),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Text that compresses to a part of its size.
    fn text(bytes: usize) -> Vec<u8> {
        let lines = (0..).flat_map(|line: u32| format!("line {line}\n").into_bytes());
        lines.take(bytes).collect()
    }

    fn random(bytes: usize) -> Vec<u8> {
        let mut random = vec![0; bytes];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random).unwrap();
        random
    }

    #[test]
    fn a_chunk_is_the_same_after_both() {
        let (mut compressor, mut decompressor) =
            (Compressor::new().unwrap(), Decompressor::default());
        for bytes in [64, 1000, 16 << 10, MAX_PAYLOAD - 1, MAX_PAYLOAD] {
            let chunk = text(bytes);
            let frame = compressor.compress(&chunk).unwrap();
            assert!(frame.len() < bytes * 15 / 16, "{bytes}: {}", frame.len());
            assert_eq!(decompressor.decompress(frame).unwrap(), chunk, "{bytes}");
        }
    }

    #[test]
    fn what_does_not_become_smaller_is_not_compressed() {
        let mut compressor = Compressor::new().unwrap();
        for chunk in [random(1), random(1000), random(MAX_PAYLOAD), text(1)] {
            assert_eq!(compressor.compress(&chunk), None, "{}", chunk.len());
        }
        // It is used again.
        assert!(compressor.compress(&text(1000)).is_some());
    }

    #[test]
    fn what_is_not_one_frame_with_its_size_is_refused() {
        let frame = |chunk: &[u8]| Compressor::new().unwrap().compress(chunk).unwrap().to_vec();
        let good = frame(&text(1000));
        let twice = [good.as_slice(), &good].concat();
        let mut changed = good.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 0x55;
        let mut larger = good.clone();
        // RFC 8878, 3.1.1.1.4: after magic number and descriptor the content size, less 256.
        larger[5] = larger[5].wrapping_add(1);
        let without_size = {
            let mut context = bulk::Compressor::new(LEVEL).unwrap();
            context.include_contentsize(false).unwrap();
            context.compress(&text(1000)).unwrap()
        };
        let too_large = bulk::compress(&text(MAX_PAYLOAD + 1), LEVEL).unwrap();
        let empty = bulk::compress(&[], LEVEL).unwrap();
        // 3.1.2: a skippable frame without data.
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        let mut decompressor = Decompressor::default();
        for (what, bytes) in [
            ("no bytes", &[][..]),
            ("not a frame", b"not a frame of Zstandard"),
            ("a part of a frame", &good[..good.len() - 1]),
            ("two frames", &twice),
            ("a byte too many", &[good.as_slice(), &[0]].concat()),
            ("another size", &larger),
            ("no size", &without_size),
            ("too large", &too_large),
            ("an empty chunk", &empty),
            ("a skippable frame", &skippable),
            ("one after it", &[good.as_slice(), &skippable].concat()),
        ] {
            let result = decompressor.decompress(bytes);
            assert_eq!(result, Err(Violation::Compressed), "{what}");
        }
        // Zstandard detects most changes; TLS detects all of them.
        if let Ok(chunk) = decompressor.decompress(&changed) {
            assert_eq!(chunk.len(), 1000);
        }
        assert_eq!(decompressor.decompress(&good).unwrap(), text(1000));
    }

    #[test]
    fn names_are_those_of_the_configuration() {
        for known in Compression::ALL {
            assert_eq!(Compression::from_text(known.name()), Ok(known));
            assert_eq!(serde_json::to_value(known).unwrap(), known.name());
        }
        let error = Compression::from_text("gzip").unwrap_err();
        assert_eq!(
            error,
            "'gzip' is not a compression, expected one of: none, zstd"
        );
    }
}
