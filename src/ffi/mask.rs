//! Masking (RFC 6455 section 5.3) for C.

use super::guard::guard;
use super::input;
use crate::websocket;

/// Masks or unmasks bytes in place, as RFC 6455 section 5.3 says: byte i is XORed with key byte
/// (phase + i) mod 4.
///
/// Doing it twice with the same key and phase gives the bytes back. To go on in the middle of a
/// payload, add the number of bytes already done to `phase`; only its value modulo 4 counts.
///
/// `data` may be NULL if `len` is 0. `key` has 4 bytes.
///
/// Errors: NULL_POINTER; TOO_LONG above PTRDIFF_MAX.
///
/// Threads: any, on different bytes.
///
/// # Safety
///
/// `data` is writable for `len` bytes, `key` readable for 4, and they do not overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_mask(
    data: *mut u8,
    len: usize,
    key: *const u8,
    phase: usize,
) -> i32 {
    guard("pve_tunnel_mask", || {
        // SAFETY: `key` has four bytes and `data` `len`, apart from each other, as the caller
        // promises.
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
