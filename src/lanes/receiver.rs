//! The receiving end of one direction of a stream.

use super::{MAX_STORED, Payload, Violation};
use std::collections::BTreeMap;

/// Bytes taken since the last acknowledgement after which another one is due.
const ACKNOWLEDGED_BYTES: u64 = 256 << 10;

/// Pieces taken since the last acknowledgement after which another one is due. The sender waits after
/// [`MAX_UNACKNOWLEDGED`](super::MAX_UNACKNOWLEDGED) chunks, which may be small.
const ACKNOWLEDGED_PIECES: usize = 64;

/// Data that waits for earlier data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored<P> {
    Data(P),
    /// So many zero bytes.
    Zeros(u64),
}

impl<P: Payload> Stored<P> {
    /// The bytes that were not taken.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len(),
            Self::Zeros(count) => *count,
        }
    }

    /// Drops the first `count` bytes.
    fn skip(&mut self, count: u64) {
        match self {
            Self::Data(data) => data.skip(count),
            Self::Zeros(length) => *length -= count,
        }
    }
}

/// Where data belongs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Everything was taken before.
    Old,
    /// It is what the local program takes next, after its first `skip` bytes.
    Next { skip: u64 },
    /// It has to wait.
    Later,
}

/// Restores the order of the data, which arrives on several lanes, and drops what arrives twice.
///
/// The window is what the sender may send beyond the last acknowledgement, so it limits what has to
/// be stored. The end of the stream counts as one byte.
#[derive(Clone, Debug)]
pub(crate) struct Receiver<P> {
    /// The offset up to which the local program has taken the data.
    taken: u64,
    window: u32,
    /// The offset up to which the sender was allowed to send.
    limit: u64,
    /// By offset; none overlaps another one or begins before `taken`.
    stored: BTreeMap<u64, Stored<P>>,
    end: Option<u64>,
    /// Whether the local program was sent the end.
    ended: bool,
    acknowledged: u64,
    /// Pieces taken since the last acknowledgement.
    pieces: usize,
    acknowledgement_due: bool,
}

impl<P: Payload> Receiver<P> {
    /// The sender may send `initial` bytes before the first acknowledgement, which allows `window`.
    pub(crate) fn new(initial: u32, window: u32) -> Self {
        Self {
            taken: 0,
            window,
            limit: initial.into(),
            stored: BTreeMap::new(),
            end: None,
            ended: false,
            acknowledged: 0,
            pieces: 0,
            acknowledgement_due: window > initial,
        }
    }

    /// Checks where `length` bytes at `offset` belong.
    pub(crate) fn place(&self, offset: u64, length: u64) -> Result<Place, Violation> {
        let end = offset.checked_add(length).ok_or(Violation::Window)?;
        if end > self.limit {
            return Err(Violation::Window);
        }
        if self.end.is_some_and(|last| end > last) {
            return Err(Violation::End);
        }
        Ok(match () {
            () if end <= self.taken => Place::Old,
            () if offset <= self.taken && !self.stored.contains_key(&self.taken) => Place::Next {
                skip: self.taken - offset,
            },
            () => Place::Later,
        })
    }

    /// Stores data until the local program takes it, as far as it is new.
    pub(crate) fn store(&mut self, offset: u64, mut data: P) -> Result<(), P::Error> {
        let mut at = offset;
        self.insert(offset, data.len(), |from, to| {
            data.skip(from - at);
            at = to;
            data.take_front(to - from).map(Stored::Data)
        })
    }

    /// Stores zeros.
    pub(crate) fn store_zeros(&mut self, offset: u64, count: u32) -> Result<(), P::Error> {
        let part = |from, to| Ok(Stored::Zeros(to - from));
        self.insert(offset, count.into(), part)
    }

    /// Inserts those parts of a range that are neither taken nor stored, in their order.
    fn insert(
        &mut self,
        offset: u64,
        length: u64,
        mut part: impl FnMut(u64, u64) -> Result<Stored<P>, P::Error>,
    ) -> Result<(), P::Error> {
        self.place(offset, length)?;
        let end = offset + length;
        let mut from = offset.max(self.taken);
        while from < end {
            let before = self.stored.range(..=from).next_back();
            let covered = before.map_or(from, |(at, stored)| at + stored.len());
            if covered > from {
                from = covered;
                continue;
            }
            let next = self.stored.range(from..end).next();
            let to = next.map_or(end, |(at, _)| *at);
            if self.stored.len() >= MAX_STORED {
                return Err(Violation::Pieces.into());
            }
            self.stored.insert(from, part(from, to)?);
            from = to;
        }
        Ok(())
    }

    /// The stored data that the local program takes next.
    pub(crate) fn next(&self) -> Option<&Stored<P>> {
        self.stored.get(&self.taken)
    }

    /// The same, to take it.
    pub(crate) fn next_mut(&mut self) -> Option<&mut Stored<P>> {
        self.stored.get_mut(&self.taken)
    }

    /// The offset up to which the local program has taken the data.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether there is something for the local program: stored data, or the end.
    pub(crate) fn has_next(&self) -> bool {
        self.next().is_some() || self.is_at_end()
    }

    /// The local program has taken `count` bytes: of the stored data, if it is next, otherwise of data
    /// that was not stored. Returns data that was taken to its end.
    pub(crate) fn take(&mut self, count: u64) -> Option<P> {
        let mut stored = self.stored.remove(&self.taken);
        self.taken += count;
        self.pieces += 1;
        if let Some(data) = &mut stored {
            data.skip(count);
            if data.len() > 0 {
                self.stored.extend(stored.map(|data| (self.taken, data)));
                return None;
            }
        } else {
            self.drop_taken();
        }
        match stored {
            Some(Stored::Data(data)) => Some(data),
            _ => None,
        }
    }

    /// Drops stored data that a direct delivery has overtaken.
    fn drop_taken(&mut self) {
        while let Some(entry) = self.stored.first_entry() {
            let at = *entry.key();
            if at >= self.taken {
                return;
            }
            let mut data = entry.remove();
            let overtaken = (self.taken - at).min(data.len());
            data.skip(overtaken);
            if data.len() > 0 {
                self.stored.insert(self.taken, data);
            }
        }
    }

    /// The sender has announced the end of the stream.
    pub(crate) fn end(&mut self, offset: u64) -> Result<(), Violation> {
        let last = self.stored.last_key_value();
        let stored = last.map_or(0, |(at, data)| at + data.len());
        let known = self.end.get_or_insert(offset);
        let received = stored.max(self.taken.saturating_sub(u64::from(self.ended)));
        if *known != offset || offset < received {
            return Err(Violation::End);
        }
        Ok(())
    }

    /// Whether the local program has taken all data before the end, and was not sent the end yet.
    pub(crate) fn is_at_end(&self) -> bool {
        !self.ended && self.end == Some(self.taken)
    }

    /// The local program was sent the end.
    pub(crate) fn take_end(&mut self) {
        debug_assert!(self.is_at_end());
        self.ended = true;
        self.taken += 1;
        self.acknowledgement_due = true;
    }

    /// Whether the local program was sent everything, including the end.
    pub(crate) fn is_complete(&self) -> bool {
        self.ended
    }

    /// A lane has failed, and the last acknowledgement with it, perhaps.
    pub(crate) fn lane_failed(&mut self) {
        self.acknowledgement_due = self.taken > 0 || self.window > 0;
    }

    /// Makes an acknowledgement due, if something was taken since the last one.
    pub(crate) fn request_acknowledgement(&mut self) {
        self.acknowledgement_due |= self.taken > self.acknowledged;
    }

    /// Whether an acknowledgement is due.
    pub(crate) fn acknowledgement_due(&self) -> bool {
        self.acknowledgement_due
            || self.pieces >= ACKNOWLEDGED_PIECES
            || self.taken - self.acknowledged >= ACKNOWLEDGED_BYTES.min(u64::from(self.window) / 2)
                && self.taken > self.acknowledged
    }

    /// The offset and the window of the acknowledgement that is due.
    pub(crate) fn acknowledge(&mut self) -> Option<(u64, u32)> {
        if !self.acknowledgement_due() {
            return None;
        }
        self.acknowledgement_due = false;
        self.acknowledged = self.taken;
        self.pieces = 0;
        self.limit = self.limit.max(self.taken + u64::from(self.window));
        Some((self.taken, self.window))
    }

    /// Bytes that are stored.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn stored(&self) -> u64 {
        let bytes = self.stored.values().map(|stored| match stored {
            Stored::Data(data) => data.len(),
            Stored::Zeros(_) => 0,
        });
        bytes.sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::lanes::Bytes;

    type Receiver = super::Receiver<Bytes>;

    const BYTES: [u8; 100] = {
        let mut bytes = [0; 100];
        let mut at = 0;
        while at < 100 {
            bytes[at] = at as u8;
            at += 1;
        }
        bytes
    };

    fn store(receiver: &mut Receiver, from: usize, to: usize) {
        receiver
            .store(from as u64, BYTES[from..to].to_vec().into())
            .unwrap();
    }

    /// Takes everything that is next, at most `step` bytes at once.
    fn drain(receiver: &mut Receiver, step: usize) -> Vec<u8> {
        let mut taken = Vec::new();
        while let Some(next) = receiver.next() {
            let data = match next {
                Stored::Data(data) => data.as_slice().to_vec(),
                Stored::Zeros(count) => vec![0; *count as usize],
            };
            let count = data.len().min(step);
            taken.extend_from_slice(&data[..count]);
            receiver.take(count as u64);
        }
        taken
    }

    #[test]
    fn order_is_restored_and_what_arrives_twice_is_dropped() {
        for step in [1, 3, 100] {
            let mut receiver = Receiver::new(100, 100);
            for (from, to) in [(50, 60), (20, 55), (0, 10), (5, 8), (40, 100), (10, 20)] {
                store(&mut receiver, from, to);
            }
            assert_eq!(receiver.stored(), 100);
            assert_eq!(drain(&mut receiver, step), BYTES);
            assert_eq!(receiver.place(0, 100), Ok(Place::Old));
        }
    }

    #[test]
    fn data_that_is_next_can_be_taken_without_being_stored() {
        let mut receiver = Receiver::new(100, 100);
        store(&mut receiver, 10, 30);
        assert_eq!(receiver.place(0, 5), Ok(Place::Next { skip: 0 }));
        receiver.take(5);
        assert_eq!(receiver.place(0, 20), Ok(Place::Next { skip: 5 }));
        // It reaches into what is stored.
        receiver.take(15);
        assert_eq!(receiver.stored(), 10);
        assert_eq!(receiver.place(20, 20), Ok(Place::Later));
        assert_eq!(drain(&mut receiver, 100), BYTES[20..30]);
    }

    #[test]
    fn data_beyond_the_window_and_a_wrong_end_are_refused() {
        let mut receiver = Receiver::new(50, 50);
        assert_eq!(receiver.place(40, 11), Err(Violation::Window));
        assert_eq!(receiver.place(u64::MAX, 11), Err(Violation::Window));
        store(&mut receiver, 10, 30);
        assert_eq!(receiver.end(29), Err(Violation::End));
        let mut receiver = Receiver::new(50, 50);
        receiver.end(30).unwrap();
        receiver.end(30).unwrap();
        assert_eq!(receiver.end(31), Err(Violation::End));
        assert_eq!(
            receiver.store(25, BYTES[..6].to_vec().into()),
            Err(Violation::End)
        );
    }

    #[test]
    fn the_end_follows_the_data_and_is_acknowledged() {
        let mut receiver = Receiver::new(100, 100);
        receiver.end(10).unwrap();
        assert!(!receiver.is_at_end());
        store(&mut receiver, 0, 10);
        drain(&mut receiver, 100);
        assert!(receiver.is_at_end());
        receiver.take_end();
        assert!(receiver.is_complete() && !receiver.is_at_end());
        assert_eq!(receiver.acknowledge(), Some((11, 100)));
        assert_eq!(receiver.acknowledge(), None);
        // The end arrives again, because its lane has failed.
        receiver.end(10).unwrap();
    }

    #[test]
    fn acknowledgements_are_due_by_bytes_and_by_pieces() {
        let mut receiver = Receiver::new(1000, 1000);
        assert_eq!(receiver.acknowledge(), None);
        receiver.take(499);
        assert_eq!(receiver.acknowledge(), None);
        receiver.take(1);
        assert_eq!(receiver.acknowledge(), Some((500, 1000)));
        for _ in 0..ACKNOWLEDGED_PIECES {
            assert_eq!(receiver.acknowledge(), None);
            receiver.take(1);
        }
        assert_eq!(receiver.acknowledge(), Some((564, 1000)));
        receiver.lane_failed();
        assert_eq!(receiver.acknowledge(), Some((564, 1000)));
        receiver.request_acknowledgement();
        assert_eq!(receiver.acknowledge(), None);
        receiver.take(1);
        receiver.request_acknowledgement();
        assert_eq!(receiver.acknowledge(), Some((565, 1000)));
    }

    #[test]
    fn the_number_of_stored_pieces_is_limited() {
        let mut receiver = Receiver::new(u32::MAX, u32::MAX);
        for at in 0..MAX_STORED as u64 {
            receiver.store(2 * at + 1, vec![1].into()).unwrap();
        }
        assert_eq!(
            receiver.store(2 * MAX_STORED as u64 + 1, vec![1].into()),
            Err(Violation::Pieces)
        );
    }
}
