//! The sending end of one direction of a stream.

use super::{LaneId, MAX_UNACKNOWLEDGED, Violation};
use std::collections::VecDeque;
use std::ops::Range;

/// New bytes are sent in so many chunks at most.
const CHUNKS_AT_ONCE: usize = 3;

/// A part of the stream that the peer has not acknowledged.
#[derive(Clone, Debug)]
struct Chunk<P> {
    range: Range<u64>,
    /// None for the end of the stream.
    payload: Option<P>,
    /// The lane that it was last sent on; none if that lane has failed.
    lane: Option<LaneId>,
    /// Whether it was sent on a second lane while the first one was open.
    reinjected: bool,
}

/// What has to be sent again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resend<'a, P> {
    /// The offset of its first byte.
    pub(crate) offset: u64,
    /// None for the end of the stream.
    pub(crate) payload: Option<&'a P>,
}

/// Keeps every chunk until the peer has acknowledged it, and sends nothing beyond the peer's window.
///
/// The end of the stream counts as one byte.
#[derive(Clone, Debug)]
pub(crate) struct Sender<P> {
    /// The offset of the next new byte.
    next: u64,
    acknowledged: u64,
    /// The offset up to which the peer accepts data.
    limit: u64,
    chunks: VecDeque<Chunk<P>>,
    /// How many chunks have no lane.
    lost: usize,
    ended: bool,
}

impl<P> Sender<P> {
    /// The peer accepts `window` bytes before its first acknowledgement.
    pub(crate) fn new(window: u32) -> Self {
        Self {
            next: 0,
            acknowledged: 0,
            limit: window.into(),
            chunks: VecDeque::new(),
            lost: 0,
            ended: false,
        }
    }

    /// How many new bytes may be sent, in up to three chunks. Zero after the end.
    pub(crate) fn room(&self) -> u64 {
        match self.ended || self.chunks.len() + CHUNKS_AT_ONCE > MAX_UNACKNOWLEDGED {
            true => 0,
            false => self.window(),
        }
    }

    /// How many bytes the peer accepts beyond those that were sent.
    fn window(&self) -> u64 {
        self.limit.saturating_sub(self.next)
    }

    /// Records new data that is being sent on a lane: `length` bytes, for which there was
    /// [`room`](Self::room). Returns the offset of the first one.
    pub(crate) fn push(&mut self, length: usize, payload: P, lane: LaneId) -> u64 {
        debug_assert!(!self.ended && length as u64 <= self.window() && length > 0);
        self.append(length as u64, Some(payload), lane)
    }

    /// Records that the end of the stream is being sent on a lane. Returns its offset. The window does
    /// not hold it back, because it takes no memory at the peer.
    pub(crate) fn end(&mut self, lane: LaneId) -> u64 {
        debug_assert!(!self.ended);
        self.ended = true;
        self.append(1, None, lane)
    }

    fn append(&mut self, length: u64, payload: Option<P>, lane: LaneId) -> u64 {
        let range = self.next..self.next + length;
        self.next = range.end;
        let offset = range.start;
        self.chunks.push_back(Chunk {
            range,
            payload,
            lane: Some(lane),
            reinjected: false,
        });
        offset
    }

    /// The peer has taken everything before `offset`, and accepts `window` bytes from there. Returns the
    /// payloads that are not needed any more.
    ///
    /// Acknowledgements arrive on several lanes, so an older one may follow a newer one: it has no
    /// effect.
    pub(crate) fn acknowledge(
        &mut self,
        offset: u64,
        window: u32,
    ) -> Result<impl Iterator<Item = P> + '_, Violation> {
        if offset > self.next {
            return Err(Violation::Acknowledgement);
        }
        self.acknowledged = self.acknowledged.max(offset);
        self.limit = self.limit.max(offset.saturating_add(window.into()));
        let taken = self
            .chunks
            .iter()
            .take_while(|chunk| chunk.range.end <= offset)
            .count();
        let lost = self
            .chunks
            .iter()
            .take(taken)
            .filter(|chunk| chunk.lane.is_none());
        self.lost -= lost.count();
        Ok(self.chunks.drain(..taken).filter_map(|chunk| chunk.payload))
    }

    /// The peer has taken everything.
    pub(crate) fn acknowledge_all(&mut self) {
        self.acknowledged = self.next;
        self.chunks.clear();
        self.lost = 0;
    }

    /// A lane has failed: everything that was sent on it and not acknowledged has to be sent again.
    /// Returns how many chunks that are.
    pub(crate) fn lane_failed(&mut self, lane: LaneId) -> usize {
        let mut count = 0;
        for chunk in &mut self.chunks {
            if chunk.lane == Some(lane) {
                chunk.lane = None;
                count += 1;
            }
        }
        self.lost += count;
        count
    }

    /// Takes the first chunk that has to be sent again, to send it on a lane.
    pub(crate) fn resend(&mut self, lane: LaneId) -> Option<Resend<'_, P>> {
        if self.lost == 0 {
            return None;
        }
        let chunk = self.chunks.iter_mut().find(|chunk| chunk.lane.is_none())?;
        chunk.lane = Some(lane);
        self.lost -= 1;
        Some(Resend {
            offset: chunk.range.start,
            payload: chunk.payload.as_ref(),
        })
    }

    /// Takes the first chunk that was sent on another lane whose data has not arrived, to send it on this
    /// one, too. No chunk is taken twice.
    pub(crate) fn reinject(
        &mut self,
        lane: LaneId,
        has_arrived: impl Fn(LaneId) -> bool,
    ) -> Option<Resend<'_, P>> {
        let waits = |chunk: &Chunk<P>| {
            let on_another = |other: LaneId| other != lane && !has_arrived(other);
            !chunk.reinjected && chunk.lane.is_some_and(on_another)
        };
        let chunk = self.chunks.iter_mut().find(|chunk| waits(chunk))?;
        chunk.lane = Some(lane);
        chunk.reinjected = true;
        Some(Resend {
            offset: chunk.range.start,
            payload: chunk.payload.as_ref(),
        })
    }

    /// The offset up to which the peer has taken everything.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Whether something has to be sent again.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost > 0
    }

    /// Whether the end was sent, acknowledged or not.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether everything that was sent is acknowledged.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.acknowledged == self.next
    }

    /// How many bytes were sent that the peer has not acknowledged.
    pub(crate) fn unacknowledged(&self) -> u64 {
        self.next - self.acknowledged
    }

    /// Whether the peer has acknowledged the end.
    pub(crate) fn is_complete(&self) -> bool {
        self.ended && self.is_acknowledged()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const A: LaneId = LaneId(0);
    const B: LaneId = LaneId(1);

    fn freed(sender: &mut Sender<char>, offset: u64, window: u32) -> Vec<char> {
        sender.acknowledge(offset, window).unwrap().collect()
    }

    #[test]
    fn nothing_is_sent_beyond_the_window() {
        let mut sender = Sender::new(10);
        assert_eq!(sender.push(6, 'a', A), 0);
        assert_eq!(sender.room(), 4);
        assert_eq!(sender.push(4, 'b', A), 6);
        assert_eq!(sender.room(), 0);
        assert_eq!(freed(&mut sender, 7, 10), ['a']);
        assert_eq!(sender.room(), 7);
        // A smaller window takes nothing back.
        assert_eq!(freed(&mut sender, 7, 1), []);
        assert_eq!(sender.room(), 7);
    }

    #[test]
    fn what_a_failed_lane_carried_is_sent_again_in_order() {
        let mut sender = Sender::new(100);
        for (payload, lane) in [('a', A), ('b', B), ('c', A)] {
            sender.push(10, payload, lane);
        }
        assert_eq!(sender.end(A), 30);
        assert_eq!(sender.lane_failed(A), 3);
        assert_eq!(freed(&mut sender, 10, 100), ['a']);
        let resent: Vec<_> = std::iter::from_fn(|| {
            let resend = sender.resend(B)?;
            Some((resend.offset, resend.payload.copied()))
        })
        .collect();
        assert_eq!(resent, [(20, Some('c')), (30, None)]);
        assert!(!sender.has_lost() && !sender.is_complete());
        assert_eq!(freed(&mut sender, 31, 100), ['b', 'c']);
        assert!(sender.is_complete());
    }

    #[test]
    fn what_a_stalled_lane_carries_is_sent_on_another_one_once() {
        const C: LaneId = LaneId(2);
        let mut sender = Sender::new(100);
        for (payload, lane) in [('a', B), ('b', A), ('c', C), ('d', A)] {
            sender.push(10, payload, lane);
        }
        let reinject = |sender: &mut Sender<char>, lane| {
            let resend = sender.reinject(lane, |other| other == C)?;
            Some((resend.offset, resend.payload.copied()))
        };
        assert_eq!(reinject(&mut sender, B), Some((10, Some('b'))));
        assert_eq!(reinject(&mut sender, C), Some((0, Some('a'))));
        assert_eq!(reinject(&mut sender, C), Some((30, Some('d'))));
        assert_eq!(reinject(&mut sender, C), None);
        // The first lanes do not matter any more.
        assert_eq!(sender.lane_failed(A), 0);
        assert_eq!(sender.lane_failed(B), 1);
        assert_eq!(sender.lane_failed(C), 3);
        let offsets: Vec<u64> = std::iter::from_fn(|| Some(sender.resend(A)?.offset)).collect();
        assert_eq!(offsets, [0, 10, 20, 30]);
    }

    #[test]
    fn an_old_acknowledgement_has_no_effect_and_one_of_the_future_is_refused() {
        let mut sender = Sender::new(20);
        sender.push(10, 'a', A);
        sender.push(10, 'b', A);
        assert_eq!(freed(&mut sender, 20, 50), ['a', 'b']);
        assert_eq!(freed(&mut sender, 10, 50), []);
        assert_eq!(sender.room(), 50);
        assert!(sender.acknowledge(21, 50).is_err());
    }

    #[test]
    fn the_number_of_chunks_is_limited() {
        let mut sender = Sender::new(u32::MAX);
        let mut chunks = 0;
        while sender.room() > 0 {
            for _ in 0..CHUNKS_AT_ONCE {
                sender.push(1, 'x', A);
                chunks += 1;
            }
        }
        assert!((MAX_UNACKNOWLEDGED - CHUNKS_AT_ONCE..=MAX_UNACKNOWLEDGED).contains(&chunks));
        assert_eq!(
            freed(&mut sender, CHUNKS_AT_ONCE as u64, u32::MAX),
            ['x'; CHUNKS_AT_ONCE]
        );
        assert!(sender.room() > 0);
    }
}
