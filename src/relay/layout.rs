//! Where payload is in a buffer that also has space for framing.

use std::io::IoSliceMut;

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
}

impl Layout {
    /// One piece of so many bytes without framing.
    pub(super) const fn plain(payload: usize) -> Self {
        Self {
            before: 0,
            payload,
            after: 0,
            pieces: 1,
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
        self.pieces * self.payload
    }

    /// The place of a payload byte in the buffer.
    pub(super) fn place(self, payload: usize) -> usize {
        payload / self.payload * self.piece() + self.before + payload % self.payload
    }

    /// The bytes that so much payload takes, at least one byte, with the framing of its pieces.
    pub(super) fn used(self, payload: usize) -> usize {
        self.place(payload - 1) + 1 + self.after
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
        for piece in buffer.chunks_mut(self.piece()).take(self.pieces) {
            let length = left.min(self.payload);
            if length == 0 || count == MOST {
                break;
            }
            slices[count] = IoSliceMut::new(&mut piece[self.before..self.before + length]);
            left -= length;
            count += 1;
        }
        (slices, count)
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
    fn a_buffer_without_framing_is_one_piece() {
        let layout = Layout::plain(100);
        let mut buffer = vec![0; 100];
        let (slices, count) = layout.slices(&mut buffer, 99);
        assert_eq!((count, slices[0].len()), (1, 99));
        assert_eq!((layout.used(99), layout.place(99)), (99, 99));
    }
}
