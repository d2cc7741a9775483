//! Masking (RFC 6455 §5.3).
//!
//! Bytes are XORed one vector at a time. The first and the last vector of the buffer cover the ends that
//! are left over: they are read before anything is written and written after everything else, so bytes
//! in two vectors are XORed only once. No length and no address has a slow path.

/// Size of a vector that every target has, in bytes.
const NARROW: usize = 16;

/// Size of a vector of AVX2, in bytes. Wider vectors are not stable in Rust 1.85.
#[cfg(target_arch = "x86_64")]
const WIDE: usize = 32;

/// Longest buffer, in bytes, for which a few narrow vectors take less time than detecting the features of
/// the processor.
const SHORT: usize = 256;

/// Size that fits into the first-level cache of every processor, in bytes. Above it, the second-level
/// cache is the limit, and wide vectors are 2 % slower than narrow ones.
#[cfg(target_arch = "x86_64")]
const FIRST_CACHE: usize = 32 << 10;

/// XORs `data` in place with `key`, starting at byte `phase` of the key (counted modulo four).
///
/// Masking and unmasking are the same operation. To mask a payload piece by piece, pass the number
/// of payload bytes already done as `phase`.
#[inline]
pub fn mask(data: &mut [u8], key: [u8; 4], phase: usize) {
    let key = rotated(key, phase);
    match data.len() {
        0..4 => bytes(data, key),
        4..8 => vectors::<4>(data, 0, key),
        8..NARROW => vectors::<8>(data, 0, key),
        NARROW..=SHORT => vectors::<NARROW>(data, 0, key),
        _ if key == [0; 4] => {}
        _ => long(data, key),
    }
}

/// Masks with the vectors that are fastest for processor and length.
fn long(data: &mut [u8], key: [u8; 4]) {
    #[cfg(target_arch = "x86_64")]
    if data.len() <= FIRST_CACHE && std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        #[allow(unsafe_code)]
        unsafe {
            with_avx2(data, key);
        }
        return;
    }
    aligned::<NARROW>(data, key);
}

/// [`aligned`], compiled for AVX2.
///
/// # Safety
///
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code)]
unsafe fn with_avx2(data: &mut [u8], key: [u8; 4]) {
    aligned::<WIDE>(data, key);
}

/// Masks at addresses that are multiples of the vector's size: a vector in two cache lines takes twice
/// the time.
#[inline(always)]
fn aligned<const SIZE: usize>(data: &mut [u8], key: [u8; 4]) {
    let start = data.as_ptr().align_offset(SIZE);
    vectors::<SIZE>(data, start, key);
}

/// Masks vector by vector from `start`, which is at most the vector's size, and the two ends by separate
/// vectors. `data` has at least the size of one vector.
#[inline(always)]
fn vectors<const SIZE: usize>(data: &mut [u8], start: usize, key: [u8; 4]) {
    let length = data.len();
    let (Some(&first), Some(&last)) = (data.first_chunk(), data.last_chunk()) else {
        return bytes(data, key);
    };
    let middle = data.get_mut(start..).unwrap_or_default();
    for vector in middle.chunks_exact_mut(SIZE) {
        xor(vector, rotated(key, start));
    }
    let mut write = |at: usize, mut vector: [u8; SIZE]| {
        xor(&mut vector, rotated(key, at));
        data[at..][..SIZE].copy_from_slice(&vector);
    };
    write(0, first);
    write(length - SIZE, last);
}

/// Masks one vector, which compiles to one instruction.
#[inline(always)]
fn xor(vector: &mut [u8], key: [u8; 4]) {
    let key = u32::from_ne_bytes(key);
    for word in vector.chunks_exact_mut(4) {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(word);
        word.copy_from_slice(&(u32::from_ne_bytes(bytes) ^ key).to_ne_bytes());
    }
}

/// Masks one byte at a time, as the RFC defines it.
#[inline(always)]
fn bytes(data: &mut [u8], key: [u8; 4]) {
    for (byte, key) in data.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// The key, rotated by `phase` bytes.
#[inline(always)]
fn rotated(key: [u8; 4], phase: usize) -> [u8; 4] {
    // In a register, which is many times faster than in an array. The first byte is the lowest.
    let bits = 8 * (phase % 4) as u32;
    u32::from_le_bytes(key).rotate_right(bits).to_le_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::mask;

    /// The definition of masking, one byte at a time (RFC 6455 §5.3).
    fn by_definition(data: &mut [u8], key: [u8; 4], phase: usize) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte ^= key[(i + phase) % 4];
        }
    }

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// Bytes before and after the masked ones, which must not change.
    const MARGIN: usize = 64;

    /// Compares a routine with the definition for `length` bytes, `start` bytes after a multiple of 64.
    fn compare(routine: fn(&mut [u8], [u8; 4]), length: usize, start: usize, phase: usize) {
        let mut ours: Vec<u8> = (0..MARGIN + length + 2 * MARGIN)
            .map(|i| (i * 7 + 3) as u8)
            .collect();
        let from = ours.as_ptr().align_offset(MARGIN) + start;
        let mut right = ours.clone();
        routine(&mut ours[from..from + length], super::rotated(KEY, phase));
        by_definition(&mut right[from..from + length], KEY, phase);
        assert!(
            ours == right,
            "start {start}, length {length}, phase {phase}"
        );
    }

    #[test]
    fn equals_the_definition_at_every_length_alignment_and_phase() {
        for length in 0..=4096 {
            for start in 0..8 {
                for phase in 0..4 {
                    compare(|data, key| mask(data, key, 0), length, start, phase);
                }
            }
        }
    }

    #[test]
    fn a_phase_counts_modulo_four() {
        for phase in [4, 5, 131_071, usize::MAX] {
            let mut ours = *b"some guest's memory";
            let mut right = ours;
            mask(&mut ours, KEY, phase);
            by_definition(&mut right, KEY, phase % 4);
            assert_eq!(ours, right, "phase {phase}");
        }
    }

    /// Tests every routine, also those that `mask` does not select on this processor.
    #[test]
    fn every_routine_equals_the_definition() {
        type Routine = fn(&mut [u8], [u8; 4]);
        let mut routines: Vec<Routine> = vec![
            super::bytes,
            super::aligned::<{ super::NARROW }>,
            super::long,
        ];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            routines.push(|data, key| {
                // SAFETY: the processor has AVX2.
                #[allow(unsafe_code)]
                unsafe {
                    super::with_avx2(data, key);
                }
            });
        }
        // Above this length `mask` selects another routine.
        let long = 32 << 10;
        let lengths = (0..600).chain([4095, 4096, long - 1, long, long + 1, 131_072, 131_073]);
        for length in lengths {
            for start in [0, 1, 4, 7, 15, 16, 31, 32, 63] {
                for routine in &routines {
                    compare(*routine, length, start, length % 4);
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
