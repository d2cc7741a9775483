//! Zeros among the data of the local program. Only their number is sent.

use super::ZEROS;
use std::ops::Range;

/// Zeros that are sent as such if nothing else was read with them. Fewer are sent as they are, like the
/// zeros that a program writes among other data.
const LEAST: usize = 512;

/// The same for zeros before and after other data, where their frame is one more to send.
const LEAST_BESIDE_DATA: usize = 16 << 10;

/// Bytes of which either all or none count as zeros.
const BLOCK: usize = 4 << 10;

/// The part of what was read that has to be sent as it is. What is before and behind it, possibly all of
/// it, is zeros.
pub(super) fn data_range(read: &[u8]) -> Range<usize> {
    let count = read.len();
    let leading = zeros(read.chunks(BLOCK));
    if leading == count {
        return match count {
            LEAST.. => count..count,
            _ => 0..count,
        };
    }
    let trailing = zeros(read.rchunks(BLOCK));
    let worth_a_frame = |zeros| match zeros {
        LEAST_BESIDE_DATA.. => zeros,
        _ => 0,
    };
    worth_a_frame(leading)..count - worth_a_frame(trailing)
}

/// How many bytes the blocks have before the first one with data.
fn zeros<'a>(blocks: impl Iterator<Item = &'a [u8]>) -> usize {
    blocks
        .take_while(|block| **block == ZEROS[..block.len()])
        .map(<[u8]>::len)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: usize = 1 << 10;

    /// The range in what was read: so many bytes of zeros or data in turn, zeros first.
    fn range_of(runs: &[usize]) -> Range<usize> {
        let bytes: Vec<u8> = runs
            .iter()
            .zip([0, 1].into_iter().cycle())
            .flat_map(|(count, byte)| std::iter::repeat_n(byte, *count))
            .collect();
        let range = data_range(&bytes);
        let rest = [&bytes[..range.start], &bytes[range.end..]].concat();
        assert!(rest.iter().all(|byte| *byte == 0), "{runs:?}");
        range
    }

    #[test]
    fn zeros_alone_are_not_data() {
        assert_eq!(range_of(&[128 * K]), 128 * K..128 * K);
        assert_eq!(range_of(&[LEAST]), LEAST..LEAST);
        assert_eq!(range_of(&[LEAST - 1]), 0..LEAST - 1);
    }

    #[test]
    fn zeros_before_and_after_data_are_not_data() {
        // In whole blocks, from each end.
        assert_eq!(range_of(&[40 * K, 28, 88 * K - 28]), 40 * K..44 * K);
        assert_eq!(range_of(&[0, 28, 128 * K]), 0..28);
        assert_eq!(range_of(&[128 * K, 28]), 128 * K..128 * K + 28);
    }

    #[test]
    fn few_zeros_beside_data_and_zeros_within_it_are_data() {
        assert_eq!(range_of(&[12 * K, 1, 12 * K]), 0..24 * K + 1);
        assert_eq!(range_of(&[0, 1, 64 * K, 1]), 0..64 * K + 2);
        assert_eq!(range_of(&[0, 64 * K]), 0..64 * K);
    }
}
