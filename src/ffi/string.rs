//! What C gets back, and how C gives it back.

use std::ffi::{CString, c_char};

use super::error::{Failure, Status};

/// Text on its way to C.
pub(super) fn to_c(text: String) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| {
        Failure::new(
            Status::InvalidArgument,
            "the answer would contain a NUL byte",
        )
    })
}

/// Bytes on their way to C: a pointer that is real even for no bytes, and how many of them count.
///
/// One NUL byte follows them, which the length leaves out: it gives an empty payload an address of
/// its own, and spares a C caller the copy where the payload is text.
pub(super) fn bytes_to_c(mut bytes: Vec<u8>) -> (*mut u8, usize) {
    let len = bytes.len();
    bytes.reserve_exact(1);
    bytes.push(0);
    (Box::into_raw(bytes.into_boxed_slice()).cast::<u8>(), len)
}

/// Frees a string that a function of this library gave out.
///
/// NULL is allowed and does nothing. The last message and status stay as they are.
///
/// Threads: any, not only the one that got the string. After a fork parent and child each free
/// their own copy.
///
/// # Safety
///
/// `text` is NULL or came from this library as `char **`, was not changed in length, and is freed
/// once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_string_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: made by `CString::into_raw` on this library's side, given back once, as the
        // caller promises.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// Frees bytes that a function of this library gave out.
///
/// NULL is allowed and does nothing. The last message and status stay as they are.
///
/// Threads: any, not only the one that got the bytes. After a fork parent and child each free their
/// own copy.
///
/// # Safety
///
/// `bytes` is NULL or came from this library as `uint8_t **`, `len` is the length that came with
/// it, and both are given once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_bytes_free(bytes: *mut u8, len: usize) {
    if !bytes.is_null() {
        // `bytes_to_c` put one NUL behind what it counted.
        let whole = std::ptr::slice_from_raw_parts_mut(bytes, len.saturating_add(1));
        // SAFETY: made by `bytes_to_c` with this length, given back once, as the caller promises.
        drop(unsafe { Box::from_raw(whole) });
    }
}
