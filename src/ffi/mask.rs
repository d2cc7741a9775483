//! Masking (RFC 6455 section 5.3) for C.

use super::guard::guard;
use super::input;
use crate::websocket;

/// Masks or unmasks bytes in place (RFC 6455 section 5.3): byte i is XORed with key byte
/// (phase + i) mod 4.
///
/// A second call with the same key and phase restores the bytes. To continue in the middle of a
/// payload, set `phase` to the number of bytes before it; only the value modulo 4 has an effect.
///
/// `data` may be NULL if `len` is 0. `key` has 4 bytes.
///
/// Errors: NULL_POINTER; TOO_LONG above PTRDIFF_MAX.
///
/// Threads: any. Two threads must not use the same bytes at the same time.
///
/// # Safety
///
/// `data` is writable for `len` bytes, `key` is readable for 4 bytes, and they do not overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_mask(
    data: *mut u8,
    len: usize,
    key: *const u8,
    phase: usize,
) -> i32 {
    guard("pve_tunnel_mask", || {
        // SAFETY: `key` has four bytes, `data` has `len` bytes, and they do not overlap, as the
        // caller promises.
        let (key, data) = unsafe {
            (
                input::key(key)?,
                input::bytes_mut(data, len, "data", isize::MAX.unsigned_abs())?,
            )
        };
        websocket::mask(data, key, phase);
        Ok(())
    })
}
