//! The frames of a lane: a header of 16 bytes, and for data its payload.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | kind |
//! | 3 | zero |
//! | 4 | count, big endian |
//! | 8 | offset, big endian |

use thiserror::Error;

/// Bytes of a header.
pub(crate) const HEADER: usize = 16;

/// Most payload bytes of a frame.
pub(crate) const MAX_PAYLOAD: usize = 128 << 10;

const DATA: u8 = 1;
const ZEROS: u8 = 2;
const END: u8 = 3;
const ACKNOWLEDGEMENT: u8 = 4;
const ABORT: u8 = 5;
const COMPRESSED: u8 = 6;
const ALIVE: u8 = 7;

/// A header. Offsets count the bytes of one direction of the stream, from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// `count` bytes follow, the first of which is the stream's byte `offset`.
    Data { offset: u64, count: u32 },
    /// The stream has `count` zero bytes at `offset`. Nothing follows.
    Zeros { offset: u64, count: u32 },
    /// The stream ends at `offset`.
    End { offset: u64 },
    /// The local program has taken all bytes before `offset`, and the peer may send up to
    /// `offset + window`. An end counts as one byte.
    Acknowledgement { offset: u64, window: u32 },
    /// The stream has failed at the sender of this frame.
    Abort,
    /// `count` bytes follow: the compressed bytes of the stream from `offset` on.
    Compressed { offset: u64, count: u32 },
    /// The lane is alive, and has nothing to carry.
    Alive,
}

/// Why bytes are not a frame.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// A kind of another version.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// A reserved byte that is not zero.
    #[error("a frame with reserved bits")]
    Reserved,
    /// Data without a byte, or with too many.
    #[error("a frame with {0} bytes of data, expected 1 to {MAX_PAYLOAD}")]
    Count(u32),
    /// The stream would be longer than its offsets can count.
    #[error("a frame that ends beyond the largest offset")]
    Offset,
}

impl Frame {
    /// The bytes of the header.
    pub(crate) fn encode(self) -> [u8; HEADER] {
        let (kind, count, offset) = match self {
            Self::Data { offset, count } => (DATA, count, offset),
            Self::Zeros { offset, count } => (ZEROS, count, offset),
            Self::End { offset } => (END, 0, offset),
            Self::Acknowledgement { offset, window } => (ACKNOWLEDGEMENT, window, offset),
            Self::Abort => (ABORT, 0, 0),
            Self::Compressed { offset, count } => (COMPRESSED, count, offset),
            Self::Alive => (ALIVE, 0, 0),
        };
        let mut bytes = [0; HEADER];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&count.to_be_bytes());
        bytes[8..].copy_from_slice(&offset.to_be_bytes());
        bytes
    }

    /// Reads a header.
    pub(crate) fn decode(bytes: [u8; HEADER]) -> Result<Self, FrameError> {
        let [kind, r1, r2, r3, c1, c2, c3, c4, rest @ ..] = bytes;
        let count = u32::from_be_bytes([c1, c2, c3, c4]);
        let offset = u64::from_be_bytes(rest);
        if [r1, r2, r3] != [0; 3] {
            return Err(FrameError::Reserved);
        }
        // An end counts as one byte.
        if offset.checked_add(u64::from(count) + 1).is_none() {
            return Err(FrameError::Offset);
        }
        match kind {
            DATA | COMPRESSED if count == 0 || count as usize > MAX_PAYLOAD => {
                Err(FrameError::Count(count))
            }
            ZEROS if count == 0 => Err(FrameError::Count(count)),
            DATA => Ok(Self::Data { offset, count }),
            ZEROS => Ok(Self::Zeros { offset, count }),
            END => Ok(Self::End { offset }),
            ACKNOWLEDGEMENT => Ok(Self::Acknowledgement {
                offset,
                window: count,
            }),
            ABORT => Ok(Self::Abort),
            COMPRESSED => Ok(Self::Compressed { offset, count }),
            ALIVE => Ok(Self::Alive),
            unknown => Err(FrameError::Kind(unknown)),
        }
    }
}

/// The count of a payload, which is smaller than a buffer.
pub(crate) fn length(payload: usize) -> u32 {
    u32::try_from(payload).unwrap_or(u32::MAX)
}

/// What [`Parser::next`] has found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// A frame that is complete: nothing follows.
    Frame(Frame),
    /// Some bytes of data, at least one; the first of them is the stream's byte `offset`.
    Payload { offset: u64, bytes: &'a [u8] },
    /// All bytes of compressed data, the first of which is the stream's byte `offset`.
    Compressed { offset: u64, bytes: Vec<u8> },
}

/// Finds frames in the bytes of a lane, however they are split.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    header: [u8; HEADER],
    /// Bytes of the header that have arrived.
    filled: usize,
    /// Payload bytes that are missing, and the offset of the next one.
    missing: usize,
    offset: u64,
    /// The payload so far, if it is compressed: it is useful only as a whole.
    compressed: Option<Vec<u8>>,
}

impl Parser {
    /// Takes the next part from the front of `bytes`; none if more bytes are needed.
    pub(crate) fn next<'a>(
        &mut self,
        bytes: &mut &'a [u8],
    ) -> Result<Option<Parsed<'a>>, FrameError> {
        while self.missing == 0 {
            let count = bytes.len().min(HEADER - self.filled);
            let (head, rest) = bytes.split_at(count);
            self.header[self.filled..self.filled + count].copy_from_slice(head);
            self.filled += count;
            *bytes = rest;
            if self.filled < HEADER {
                return Ok(None);
            }
            self.filled = 0;
            match Frame::decode(self.header)? {
                Frame::Data { offset, count } => {
                    self.missing = count as usize;
                    self.offset = offset;
                }
                Frame::Compressed { offset, count } => {
                    self.missing = count as usize;
                    self.offset = offset;
                    self.compressed = Some(Vec::with_capacity(self.missing));
                }
                frame => return Ok(Some(Parsed::Frame(frame))),
            }
        }
        let (payload, rest) = bytes.split_at(bytes.len().min(self.missing));
        *bytes = rest;
        if payload.is_empty() {
            return Ok(None);
        }
        let offset = self.offset;
        self.missing -= payload.len();
        if let Some(compressed) = &mut self.compressed {
            compressed.extend_from_slice(payload);
            if self.missing > 0 {
                return Ok(None);
            }
            let bytes = self.compressed.take().unwrap_or_default();
            return Ok(Some(Parsed::Compressed { offset, bytes }));
        }
        self.offset += payload.len() as u64;
        Ok(Some(Parsed::Payload {
            offset,
            bytes: payload,
        }))
    }

    /// Whether the bytes so far end with a whole frame.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.filled == 0 && self.missing == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_frame_is_read_as_it_was_written() {
        for frame in [
            Frame::Data {
                offset: 0x0102_0304_0506_0708,
                count: 0x0001_0203,
            },
            Frame::Zeros {
                offset: 5,
                count: u32::MAX,
            },
            Frame::End { offset: 7 },
            Frame::Acknowledgement {
                offset: 9,
                window: 1 << 24,
            },
            Frame::Abort,
            Frame::Compressed {
                offset: 11,
                count: MAX_PAYLOAD as u32,
            },
        ] {
            assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn what_is_not_a_frame_is_refused() {
        let data = |count| {
            Frame::Data {
                offset: u64::MAX - 10,
                count,
            }
            .encode()
        };
        let mut unknown = Frame::Abort.encode();
        unknown[0] = 8;
        let mut reserved = Frame::Abort.encode();
        reserved[2] = 1;
        for (bytes, expected) in [
            (unknown, FrameError::Kind(8)),
            (reserved, FrameError::Reserved),
            (data(0), FrameError::Count(0)),
            (data(10), FrameError::Offset),
            (
                Frame::Data {
                    offset: 0,
                    count: MAX_PAYLOAD as u32 + 1,
                }
                .encode(),
                FrameError::Count(MAX_PAYLOAD as u32 + 1),
            ),
            (
                Frame::Zeros {
                    offset: 0,
                    count: 0,
                }
                .encode(),
                FrameError::Count(0),
            ),
            (
                Frame::Compressed {
                    offset: 0,
                    count: 0,
                }
                .encode(),
                FrameError::Count(0),
            ),
        ] {
            assert_eq!(Frame::decode(bytes), Err(expected));
        }
    }

    #[test]
    fn frames_are_found_however_their_bytes_are_split() {
        let payload: Vec<u8> = (0..100).collect();
        let mut bytes = Frame::Data {
            offset: 40,
            count: 100,
        }
        .encode()
        .to_vec();
        bytes.extend_from_slice(&payload);
        let compressed = Frame::Compressed {
            offset: 140,
            count: 7,
        };
        bytes.extend_from_slice(&compressed.encode());
        bytes.extend_from_slice(b"7 bytes");
        bytes.extend_from_slice(&Frame::End { offset: 140 }.encode());
        for step in 1..bytes.len() {
            let mut parser = Parser::default();
            let (mut received, mut frames, mut others) = (Vec::new(), Vec::new(), Vec::new());
            for mut piece in bytes.chunks(step) {
                while let Some(parsed) = parser.next(&mut piece).unwrap() {
                    match parsed {
                        Parsed::Frame(frame) => frames.push(frame),
                        Parsed::Payload { offset, bytes } => {
                            assert_eq!(offset, 40 + received.len() as u64, "step {step}");
                            received.extend_from_slice(bytes);
                        }
                        Parsed::Compressed { offset, bytes } => others.push((offset, bytes)),
                    }
                }
            }
            assert_eq!(received, payload, "step {step}");
            assert_eq!(others, [(140, b"7 bytes".to_vec())], "step {step}");
            assert_eq!(frames, [Frame::End { offset: 140 }], "step {step}");
            assert!(parser.is_between_frames());
        }
    }
}
