//! Data in one or more pieces.

use std::io::IoSlice;
use std::ops::Range;

/// Most pieces that are written at once.
const AT_ONCE: usize = 16;

/// Data that a connection delivers: in one piece, or in the pieces of a buffer that are left when the
/// framing between them is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces<'a> {
    /// One piece.
    One(&'a [u8]),
    /// The pieces at these places, in order.
    Many {
        /// What the places refer to.
        buffer: &'a [u8],
        /// Where the pieces are.
        places: &'a [Range<usize>],
    },
}

impl<'a> Pieces<'a> {
    /// The pieces, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let (one, buffer, places): (Option<&[u8]>, &[u8], &[_]) = match *self {
            Self::One(bytes) => (Some(bytes), &[], &[]),
            Self::Many { buffer, places } => (None, buffer, places),
        };
        one.into_iter()
            .chain(places.iter().map(|place| &buffer[place.clone()]))
    }

    /// The number of bytes of all pieces together.
    pub fn bytes(&self) -> usize {
        self.iter().map(<[u8]>::len).sum()
    }

    /// The slices for one call that writes what follows the first `written` bytes, and how many they are.
    pub(super) fn after(&self, mut written: usize) -> ([IoSlice<'a>; AT_ONCE], usize) {
        let mut slices = [IoSlice::new(&[]); AT_ONCE];
        let mut count = 0;
        for piece in self.iter() {
            let skipped = written.min(piece.len());
            written -= skipped;
            if count == AT_ONCE {
                break;
            }
            if skipped < piece.len() {
                slices[count] = IoSlice::new(&piece[skipped..]);
                count += 1;
            }
        }
        (slices, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_after_any_number_of_bytes_is_found() {
        let buffer: Vec<u8> = (0..200).collect();
        let places: Vec<_> = (0..20)
            .map(|at| 10 * at + 3..10 * at + 3 + at % 7)
            .collect();
        let whole: Vec<u8> = places
            .iter()
            .flat_map(|place| buffer[place.clone()].to_vec())
            .collect();
        let many = Pieces::Many {
            buffer: &buffer,
            places: &places,
        };
        for (pieces, whole) in [(many, &whole), (Pieces::One(&buffer), &buffer)] {
            assert_eq!(pieces.bytes(), whole.len());
            let mut written = 0;
            for step in (1..8).cycle() {
                let (slices, count) = pieces.after(written);
                let found: Vec<u8> = slices[..count]
                    .iter()
                    .flat_map(|slice| slice.to_vec())
                    .collect();
                assert!(whole[written..].starts_with(&found));
                if found.is_empty() {
                    break;
                }
                written += found.len().min(step);
            }
            assert_eq!(written, whole.len());
        }
    }
}
