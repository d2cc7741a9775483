//! A stream over several connections, its *lanes*: how it is cut into chunks, put in order again, and
//! sent again after a lane has failed.
//!
//! Each direction of a stream has a [`Sender`] at one end and a [`Receiver`] at the other. Both are
//! state machines without sockets and clocks. [`Frame`] is what they send to each other, and
//! [`Parser`] finds frames in the bytes of a lane. `compression` has what a chunk may be replaced by.

mod compression;
mod frame;
#[cfg(fuzzing)]
mod fuzzing;
mod payload;
mod receiver;
mod sender;
mod usage;

#[cfg(fuzzing)]
pub(crate) use fuzzing::receive as fuzzing_receive;

pub use compression::Compression;
pub(crate) use compression::{Benefit, Compressor, Decompressor, Sent};
pub(crate) use frame::{Frame, HEADER, MAX_PAYLOAD, Parsed, Parser, length};
pub(crate) use payload::{Bytes, Payload};
pub(crate) use receiver::{Place, Receiver, Stored};
pub(crate) use sender::{Resend, Sender};
pub(crate) use usage::{LaneCounters, LaneUsage};

use std::ops::RangeInclusive;
use thiserror::Error;

/// Numbers of lanes of one stream. More lanes take a larger part of a network that others use, too.
pub(crate) const LANES: RangeInclusive<u16> = 1..=16;

/// The lanes of a stream if nothing is configured: one connection, without protocol 2.
pub(crate) const DEFAULT_LANES: u16 = 1;

/// Numbers of threads that serve the lanes of a process, beside its own one.
pub(crate) const THREADS: RangeInclusive<u16> = 1..=16;

/// Chunks of one direction that are sent and not acknowledged, at most. Each takes some memory beside
/// its payload.
pub(crate) const MAX_UNACKNOWLEDGED: usize = 4096;

/// Pieces that one direction stores, at most. A chunk arrives in several pieces.
const MAX_STORED: usize = 16 * MAX_UNACKNOWLEDGED;

/// One lane of a stream at one end. A lane that is opened in place of another one has a new number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaneId(pub(crate) u64);

/// What a peer must not send. The stream fails, because its data cannot be trusted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Data beyond the window.
    #[error("data beyond the window")]
    Window,
    /// Data beyond the end, or two different ends.
    #[error("an end of stream that contradicts earlier data")]
    End,
    /// An acknowledgement of data that was not sent.
    #[error("an acknowledgement of data that was not sent")]
    Acknowledgement,
    /// A compressed chunk that cannot be decompressed.
    #[error("a compressed chunk that is damaged, or not a single frame with its size")]
    Compressed,
    /// Too many small pieces.
    #[error("more than {MAX_STORED} pieces of data that are out of order")]
    Pieces,
}

#[cfg(test)]
mod tests;
