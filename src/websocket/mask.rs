//! Masking (RFC 6455 §5.3).

const WORD: usize = size_of::<u64>();

/// XORs `data` in place with `key`, starting at byte `phase` of the key (counted modulo four).
///
/// Masking and unmasking are the same operation. To mask a payload piece by piece, pass the number
/// of payload bytes already done as `phase`.
pub fn mask(data: &mut [u8], key: [u8; 4], phase: usize) {
    let mut key = key;
    key.rotate_left(phase % 4);
    if key == [0; 4] {
        return;
    }
    // Eight bytes at a time: the key repeats in each word, whatever the address, and the compiler
    // widens the loop to the vectors that the target has.
    let [a, b, c, d] = key;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = data.chunks_exact_mut(WORD);
    for chunk in &mut chunks {
        let mut bytes = [0; WORD];
        bytes.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ word).to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::mask;

    /// What masking means, one byte at a time (RFC 6455 §5.3).
    fn by_definition(data: &mut [u8], key: [u8; 4], phase: usize) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte ^= key[(i + phase) % 4];
        }
    }

    #[test]
    fn equals_the_definition_at_every_length_alignment_and_phase() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let source: Vec<u8> = (0..300u32).map(|i| (i * 7 + 3) as u8).collect();
        for start in 0..8 {
            for length in 0..=256 {
                for phase in 0..8 {
                    let mut ours = source.clone();
                    let mut right = source.clone();
                    mask(&mut ours[start..start + length], key, phase);
                    by_definition(&mut right[start..start + length], key, phase);
                    assert_eq!(ours, right, "start {start}, length {length}, phase {phase}");
                }
            }
        }
    }

    #[test]
    fn pieces_equal_the_whole() {
        let key = [1, 2, 3, 4];
        let mut whole: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        let mut pieces = whole.clone();
        mask(&mut whole, key, 0);
        let mut done = 0;
        for step in (1..50).cycle() {
            let end = (done + step).min(pieces.len());
            mask(&mut pieces[done..end], key, done);
            done = end;
            if done == pieces.len() {
                break;
            }
        }
        assert_eq!(whole, pieces);
    }

    #[test]
    fn a_zero_key_changes_nothing() {
        let mut data = *b"guest";
        mask(&mut data, [0; 4], 1);
        assert_eq!(&data, b"guest");
    }
}
