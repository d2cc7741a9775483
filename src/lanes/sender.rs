//! The sending end of one direction of a stream.

use super::{LaneId, MAX_UNACKNOWLEDGED, Violation};
use std::collections::VecDeque;
use std::ops::Range;

/// What is reserved at once becomes so many chunks at most.
const CHUNKS_AT_ONCE: usize = 3;

/// A part of the stream that the peer has not acknowledged.
#[derive(Clone, Debug)]
struct Chunk<P> {
    range: Range<u64>,
    content: Content<P>,
    /// The lane that it was last sent on; none if that lane has failed.
    lane: Option<LaneId>,
    /// Whether it was sent on a second lane while the first one was open.
    reinjected: bool,
}

/// What a chunk consists of.
#[derive(Clone, Debug)]
enum Content<P> {
    /// Data that is not known yet.
    Reserved,
    Payload(P),
    /// The end of the stream.
    End,
}

/// What has to be sent again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resend<'a, P> {
    /// The offset of its first byte.
    pub(crate) offset: u64,
    /// None for the end of the stream.
    pub(crate) payload: Option<&'a P>,
}

impl<P> Chunk<P> {
    /// Whether it can be sent: it is not only reserved.
    fn is_known(&self) -> bool {
        !matches!(self.content, Content::Reserved)
    }

    fn again(&self) -> Resend<'_, P> {
        Resend {
            offset: self.range.start,
            payload: match &self.content {
                Content::Payload(payload) => Some(payload),
                Content::Reserved | Content::End => None,
            },
        }
    }
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
    /// How many are reserved.
    reserved: usize,
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
            reserved: 0,
            ended: false,
        }
    }

    /// How many new bytes may be reserved. Zero after the end.
    pub(crate) fn room(&self) -> u64 {
        let chunks = self.chunks.len() + CHUNKS_AT_ONCE * self.reserved + CHUNKS_AT_ONCE;
        match self.ended || chunks > MAX_UNACKNOWLEDGED {
            true => 0,
            false => self.limit.saturating_sub(self.next),
        }
    }

    /// Gives the next `length` bytes, for which there is [`room`](Self::room), to a lane. Returns the
    /// offset of the first one. The lane [`fill`](Self::fill)s them before it can fail: otherwise they are
    /// never sent, and the stream is never complete.
    pub(crate) fn reserve(&mut self, length: usize, lane: LaneId) -> u64 {
        debug_assert!(length > 0 && length as u64 <= self.room());
        self.reserved += 1;
        self.append(length as u64, Content::Reserved, lane)
    }

    /// Records what a lane sends from the offset on that it has reserved: the lengths and payloads of up
    /// to three chunks, together as long as reserved.
    pub(crate) fn fill(&mut self, offset: u64, chunks: impl IntoIterator<Item = (usize, P)>) {
        self.reserved -= 1;
        let found = self
            .chunks
            .binary_search_by_key(&offset, |chunk| chunk.range.start);
        // A peer that acknowledges what it cannot have received has taken it out of the list.
        let Ok(at) = found else { return };
        let Some(reserved) = self.chunks.remove(at) else {
            return;
        };
        let mut range = offset..offset;
        for (at, (length, payload)) in (at..).zip(chunks) {
            range = range.end..range.end + length as u64;
            let chunk = Chunk {
                range: range.clone(),
                content: Content::Payload(payload),
                ..reserved
            };
            self.chunks.insert(at, chunk);
        }
        debug_assert_eq!(range.end, reserved.range.end);
    }

    /// Records that the end of the stream is being sent on a lane. Returns its offset. The window does
    /// not hold it back, because it takes no memory at the peer.
    pub(crate) fn end(&mut self, lane: LaneId) -> u64 {
        debug_assert!(!self.ended);
        self.ended = true;
        self.append(1, Content::End, lane)
    }

    fn append(&mut self, length: u64, content: Content<P>, lane: LaneId) -> u64 {
        let range = self.next..self.next + length;
        self.next = range.end;
        let offset = range.start;
        self.chunks.push_back(Chunk {
            range,
            content,
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
        let payload = |chunk: Chunk<P>| match chunk.content {
            Content::Payload(payload) => Some(payload),
            Content::Reserved | Content::End => None,
        };
        Ok(self.chunks.drain(..taken).filter_map(payload))
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
            if chunk.lane == Some(lane) && chunk.is_known() {
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
        Some(chunk.again())
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
            chunk.is_known() && !chunk.reinjected && chunk.lane.is_some_and(on_another)
        };
        let chunk = self.chunks.iter_mut().find(|chunk| waits(chunk))?;
        chunk.lane = Some(lane);
        chunk.reinjected = true;
        Some(chunk.again())
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

    fn push(sender: &mut Sender<char>, length: usize, payload: char, lane: LaneId) -> u64 {
        let offset = sender.reserve(length, lane);
        sender.fill(offset, [(length, payload)]);
        offset
    }

    fn freed(sender: &mut Sender<char>, offset: u64, window: u32) -> Vec<char> {
        sender.acknowledge(offset, window).unwrap().collect()
    }

    #[test]
    fn nothing_is_sent_beyond_the_window() {
        let mut sender = Sender::new(10);
        assert_eq!(push(&mut sender, 6, 'a', A), 0);
        assert_eq!(sender.room(), 4);
        assert_eq!(push(&mut sender, 4, 'b', A), 6);
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
            push(&mut sender, 10, payload, lane);
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
            push(&mut sender, 10, payload, lane);
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
        push(&mut sender, 10, 'a', A);
        push(&mut sender, 10, 'b', A);
        assert_eq!(freed(&mut sender, 20, 50), ['a', 'b']);
        assert_eq!(freed(&mut sender, 10, 50), []);
        assert_eq!(sender.room(), 50);
        assert!(sender.acknowledge(21, 50).is_err());
    }

    #[test]
    fn what_is_reserved_is_filled_in_any_order() {
        let mut sender = Sender::new(100);
        assert_eq!((sender.reserve(30, A), sender.reserve(10, B)), (0, 30));
        sender.fill(30, [(10, 'd')]);
        // It cannot be sent on another lane yet.
        assert_eq!(sender.reinject(B, |_| false), None);
        sender.fill(0, [(5, 'a'), (20, 'b'), (5, 'c')]);
        assert_eq!((sender.lane_failed(A), sender.lane_failed(B)), (3, 1));
        let resent: Vec<_> = std::iter::from_fn(|| {
            let resend = sender.resend(A)?;
            Some((resend.offset, resend.payload.copied()))
        })
        .collect();
        let expected = [(0, 'a'), (5, 'b'), (25, 'c'), (30, 'd')];
        assert_eq!(resent, expected.map(|(offset, it)| (offset, Some(it))));
        assert_eq!(freed(&mut sender, 40, 100), ['a', 'b', 'c', 'd']);
    }

    #[test]
    fn an_acknowledgement_of_what_is_reserved_does_no_harm() {
        let mut sender = Sender::new(100);
        let offset = sender.reserve(10, A);
        assert_eq!(freed(&mut sender, 10, 100), []);
        sender.fill(offset, [(10, 'a')]);
        assert_eq!(push(&mut sender, 10, 'b', A), 10);
        assert_eq!(freed(&mut sender, 20, 100), ['b']);
        assert!(sender.is_acknowledged());
    }

    #[test]
    fn the_number_of_chunks_is_limited() {
        let mut sender = Sender::new(u32::MAX);
        let parts = CHUNKS_AT_ONCE;
        let mut reserved = Vec::new();
        while sender.room() > 0 {
            reserved.push(sender.reserve(parts, A));
            // Two lanes at a time.
            if reserved.len() == 2 {
                for offset in reserved.drain(..) {
                    sender.fill(offset, vec![(1, 'x'); parts]);
                }
            }
        }
        for offset in reserved {
            sender.fill(offset, vec![(1, 'x'); parts]);
        }
        let chunks = sender.chunks.len();
        assert!((MAX_UNACKNOWLEDGED - 2 * parts..=MAX_UNACKNOWLEDGED).contains(&chunks));
        assert_eq!(
            freed(&mut sender, 2 * parts as u64, u32::MAX).len(),
            2 * parts
        );
        assert!(sender.room() > 0);
    }
}
