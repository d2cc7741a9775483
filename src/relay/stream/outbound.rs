//! What a lane sends.

use super::Content;
use super::kept::Kept;
use crate::lanes::{Frame, LaneCounters, Resend, length};

/// A frame, and its payload if it has one.
pub(super) struct Outbound {
    pub(super) frame: Frame,
    pub(super) payload: Option<Kept>,
}

impl Outbound {
    /// Data of the stream from this offset on.
    pub(super) fn data(offset: u64, payload: Kept) -> Self {
        let count = length(payload.len());
        Self {
            frame: Frame::Data { offset, count },
            payload: Some(payload),
        }
    }

    /// What is sent again.
    pub(super) fn again(resend: &Resend<'_, Content>, counters: &LaneCounters) -> Self {
        let offset = resend.offset;
        match resend.payload {
            Some(Content::Bytes(kept)) => {
                counters.resent(kept.len());
                Self::data(offset, kept.clone())
            }
            Some(&Content::Zeros(count)) => Frame::Zeros { offset, count }.into(),
            None => Frame::End { offset }.into(),
        }
    }
}

impl From<Frame> for Outbound {
    /// A frame without a payload.
    fn from(frame: Frame) -> Self {
        Self {
            frame,
            payload: None,
        }
    }
}
