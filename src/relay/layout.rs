//! Where payload is in a buffer that also has space for framing.

use std::io::IoSliceMut;
use std::ops::Range;

/// Most pieces of a buffer.
const MOST: usize = 8;

/// A buffer of equal pieces. Each one has free bytes, payload and free bytes again; the payload
/// continues from piece to piece. If there is less of it, the last piece is shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Free bytes in front of a piece's payload.
    pub(super) before: usize,
    /// Most payload bytes of a piece.
    pub(super) payload: usize,
    /// Free bytes after a piece's payload.
    pub(super) after: usize,
    /// How many pieces there are.
    pub(super) pieces: usize,
    /// Payload bytes at the beginning that the caller fills: a header of its own.
    pub(super) reserved: usize,
}

impl Layout {
    /// One piece of so many bytes without framing.
    pub(super) const fn plain(payload: usize) -> Self {
        Self {
            before: 0,
            payload,
            after: 0,
            pieces: 1,
            reserved: 0,
        }
    }

    /// The bytes of a whole piece.
    const fn piece(self) -> usize {
        self.before + self.payload + self.after
    }

    /// The bytes of the whole buffer.
    pub(super) const fn size(self) -> usize {
        self.pieces * self.piece()
    }

    /// Most payload bytes of the buffer.
    pub(super) const fn capacity(self) -> usize {
        self.pieces * self.payload - self.reserved
    }

    /// The place of a payload byte in the buffer.
    pub(super) fn place(self, payload: usize) -> usize {
        let payload = self.reserved + payload;
        payload / self.payload * self.piece() + self.before + payload % self.payload
    }

    /// The bytes that so much payload takes, with the reserved bytes at least one, and with the framing
    /// of its pieces.
    pub(super) fn used(self, payload: usize) -> usize {
        let last = self.reserved + payload - 1;
        last / self.payload * self.piece() + self.before + last % self.payload + 1 + self.after
    }

    /// Where the reserved bytes are.
    pub(super) fn reserved(self) -> Range<usize> {
        self.before..self.before + self.reserved
    }

    /// The places of the first `payload` bytes, and how many they are.
    pub(super) fn slices(
        self,
        buffer: &mut [u8],
        payload: usize,
    ) -> ([IoSliceMut<'_>; MOST], usize) {
        let mut slices = [(); MOST].map(|()| IoSliceMut::new(&mut []));
        let mut left = payload;
        let mut count = 0;
        let mut reserved = self.reserved;
        for piece in buffer.chunks_mut(self.piece()).take(self.pieces) {
            let length = left.min(self.payload - reserved);
            if length == 0 || count == MOST {
                break;
            }
            let start = self.before + reserved;
            slices[count] = IoSliceMut::new(&mut piece[start..start + length]);
            left -= length;
            count += 1;
            reserved = 0;
        }
        (slices, count)
    }

    /// Puts bytes into the places of a payload.
    pub(super) fn fill(self, buffer: &mut [u8], bytes: &[u8]) {
        let (mut slices, count) = self.slices(buffer, bytes.len());
        let mut rest = bytes;
        for slice in &mut slices[..count] {
            let (part, later) = rest.split_at(slice.len());
            slice.copy_from_slice(part);
            rest = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_goes_around_the_framing() {
        let layout = Layout {
            before: 2,
            payload: 3,
            after: 1,
            pieces: 3,
            reserved: 0,
        };
        assert_eq!((layout.size(), layout.capacity()), (18, 9));
        for (payload, used, lengths) in [
            (1, 4, &[1][..]),
            (3, 6, &[3]),
            (4, 10, &[3, 1]),
            (9, 18, &[3, 3, 3]),
        ] {
            assert_eq!(layout.used(payload), used, "{payload}");
            let mut buffer = vec![0; layout.size()];
            let (mut slices, count) = layout.slices(&mut buffer, payload);
            let found: Vec<usize> = slices[..count].iter().map(|slice| slice.len()).collect();
            assert_eq!(found, lengths, "{payload}");
            for slice in &mut slices[..count] {
                slice.fill(1);
            }
            let places: Vec<usize> = (0..payload).map(|at| layout.place(at)).collect();
            let filled: Vec<usize> = (0..buffer.len()).filter(|at| buffer[*at] == 1).collect();
            assert_eq!(places, filled, "{payload}");
        }
    }

    #[test]
    fn payload_begins_after_the_reserved_bytes() {
        let layout = Layout {
            before: 1,
            payload: 4,
            after: 1,
            pieces: 2,
            reserved: 3,
        };
        assert_eq!((layout.capacity(), layout.reserved()), (5, 1..4));
        for (payload, used, lengths) in [
            (0, 5, &[][..]),
            (1, 6, &[1]),
            (2, 9, &[1, 1]),
            (5, 12, &[1, 4]),
        ] {
            assert_eq!(layout.used(payload), used, "{payload}");
            let mut buffer = vec![0; layout.size()];
            let (slices, count) = layout.slices(&mut buffer, payload);
            let found: Vec<usize> = slices[..count].iter().map(|slice| slice.len()).collect();
            assert_eq!(found, lengths, "{payload}");
        }
        assert_eq!((layout.place(0), layout.place(1)), (4, 7));
    }

    #[test]
    fn a_buffer_without_framing_is_one_piece() {
        let layout = Layout::plain(100);
        let mut buffer = vec![0; 100];
        let (slices, count) = layout.slices(&mut buffer, 99);
        assert_eq!((count, slices[0].len()), (1, 99));
        assert_eq!((layout.used(99), layout.place(99)), (99, 99));
    }
}
