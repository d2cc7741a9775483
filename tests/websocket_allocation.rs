//! The codec does not allocate for a frame and does not copy its payload: it unmasks a payload in
//! the read buffer, and encodes a frame in the buffer of its payload.
//!
//! A crate of its own, because its functions of the C library apply to the whole executable.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use pve_tunnel::websocket::{Decoder, Encoder, Event, MAX_FRAME, MAX_HEADER, Masking, Role};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use testing::frames::{Random, frame};

const BINARY: u8 = 0x82;
const BYTE: u8 = 7;
const FRAMES: usize = 1000;

thread_local! {
    /// The allocations of this thread only: other tests run at the same time.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// The library has the global allocator, which calls these functions of the C library. An executable
// may replace them (malloc(3)).
mod replaced {
    #![allow(unsafe_code)]
    use super::{c_int, c_void, count};

    // SAFETY: glibc's own functions, with these types.
    unsafe extern "C" {
        fn __libc_malloc(size: usize) -> *mut c_void;
        fn __libc_calloc(number: usize, size: usize) -> *mut c_void;
        fn __libc_realloc(pointer: *mut c_void, size: usize) -> *mut c_void;
        fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
        count();
        // SAFETY: passes the call on. Counting does not allocate: the counter has no destructor,
        // and its initial value is a constant.
        unsafe { __libc_malloc(size) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn calloc(number: usize, size: usize) -> *mut c_void {
        count();
        // SAFETY: as above.
        unsafe { __libc_calloc(number, size) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn realloc(pointer: *mut c_void, size: usize) -> *mut c_void {
        count();
        // SAFETY: as above.
        unsafe { __libc_realloc(pointer, size) }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn posix_memalign(
        place: *mut *mut c_void,
        alignment: usize,
        size: usize,
    ) -> c_int {
        count();
        // SAFETY: as above. The caller has a valid place for the result.
        unsafe {
            *place = __libc_memalign(alignment, size);
            if (*place).is_null() { libc::ENOMEM } else { 0 }
        }
    }
}

fn count() {
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
}

/// The number of allocations in `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Decodes as the connector does. `size` returns the length of the next piece for the length of the
/// rest. Returns the number of payload bytes.
fn decode(decoder: &mut Decoder, stream: &[u8], mut size: impl FnMut(usize) -> usize) -> usize {
    let (mut rest, mut seen) = (stream, 0);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(size(rest.len()));
        let read = &mut decoder.space(MAX_FRAME + MAX_HEADER)[..piece.len()];
        read.copy_from_slice(piece);
        let read = read.as_ptr_range();
        decoder.filled(piece.len());
        while let Some(event) = decoder.next_event().unwrap() {
            let Event::Data { payload, .. } = event else {
                panic!("{event:?}");
            };
            let location = payload.as_ptr_range();
            assert!(
                read.start <= location.start && location.end <= read.end,
                "a payload is outside the read buffer"
            );
            assert!(payload.iter().step_by(509).all(|&byte| byte == BYTE));
            seen += payload.len();
        }
        rest = after;
    }
    seen
}

#[test]
fn allocations_are_counted() {
    let mut kept = Vec::new();
    let count = allocations(|| {
        kept.push(vec![1_u8; 100]);
        kept[0].reserve(1000);
    });
    assert!(count >= 3, "{count}");
    drop(kept);
    assert_eq!(allocations(|| ()), 0);
}

#[test]
fn decoding_allocates_nothing_and_copies_nothing() {
    for (role, key) in [
        (Role::Server, Some([0x37, 0xfa, 0x21, 0x3d])),
        (Role::Client, None),
    ] {
        for length in [0, 100, 4096, MAX_FRAME] {
            let one = frame(BINARY, key, &vec![BYTE; length]);
            let mut decoder = Decoder::new(role, MAX_FRAME);
            let mut random = Random(length as u64);
            // Decoding byte by byte leaves every part of a header in the buffer, so the buffer
            // reaches its final size.
            decode(&mut decoder, &one, |_| 1);
            let mut seen = 0;
            let count = allocations(|| {
                for _ in 0..FRAMES {
                    seen += decode(&mut decoder, &one, |left| 1 + random.below(left));
                }
            });
            assert_eq!(seen, FRAMES * length);
            assert_eq!(count, 0, "{role:?}, frames of {length} bytes");
        }
    }
}

#[test]
fn encoding_in_place_allocates_nothing() {
    for (role, masking) in [
        (Role::Client, Masking::Random),
        (Role::Client, Masking::Zero),
        (Role::Server, Masking::Zero),
    ] {
        for length in [0, 100, 4096, MAX_FRAME] {
            let mut encoder = Encoder::new(role, masking);
            let mut buffer = vec![BYTE; MAX_HEADER + length];
            encoder.encode_in_place(&mut buffer).unwrap();
            let count = allocations(|| {
                for _ in 0..FRAMES {
                    encoder.encode_in_place(&mut buffer).unwrap();
                }
            });
            assert_eq!(count, 0, "{role:?}, {masking:?}, frames of {length} bytes");
        }
    }
}
