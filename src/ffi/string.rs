//! Strings and bytes for C, and the functions that free them.

use std::ffi::{CString, c_char};

use super::error::{Failure, Status};
use super::memory;

/// Text as a C string.
pub(super) fn to_c(text: impl AsRef<[u8]>) -> Result<CString, Failure> {
    let text = text.as_ref();
    // With space for the NUL, because `CString::new` would end the process without memory for it.
    let mut bytes = Vec::new();
    memory::reserve(&mut bytes, text.len() + 1)?;
    bytes.extend_from_slice(text);
    bytes.push(0);
    CString::from_vec_with_nul(bytes).map_err(|_| {
        Failure::new(
            Status::InvalidArgument,
            "the answer would contain a NUL byte",
        )
    })
}

/// Bytes as a pointer and a length. The pointer is valid even if there are no bytes.
///
/// One NUL byte follows the bytes, which the length does not count. It gives an empty payload an
/// address, and lets a C program use a text payload without a copy. Does not fail if the capacity
/// was reserved for exactly one more byte.
pub(super) fn bytes_to_c(mut bytes: Vec<u8>) -> Result<(*mut u8, usize), Failure> {
    let len = bytes.len();
    memory::reserve(&mut bytes, 1)?;
    bytes.push(0);
    Ok((Box::into_raw(bytes.into_boxed_slice()).cast::<u8>(), len))
}

/// Frees a string that a function of this library returned.
///
/// NULL is allowed and has no effect. Does not change the last message and status.
///
/// Threads: any, not only the thread that received the string. After a fork, parent and child each
/// free their own copy.
///
/// # Safety
///
/// `text` is NULL, or a `char **` output of this library. Its length is unchanged, and it is freed
/// once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_string_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: created by `CString::into_raw` in this library, and freed once, as the caller
        // promises.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// Frees bytes that a function of this library returned.
///
/// NULL is allowed and has no effect. Does not change the last message and status.
///
/// Threads: any, not only the thread that received the bytes. After a fork, parent and child each
/// free their own copy.
///
/// # Safety
///
/// `bytes` is NULL, or a `uint8_t **` output of this library, and `len` is its length. It is freed
/// once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_bytes_free(bytes: *mut u8, len: usize) {
    if !bytes.is_null() {
        // `bytes_to_c` added one NUL, which the length does not count.
        let whole = std::ptr::slice_from_raw_parts_mut(bytes, len.saturating_add(1));
        // SAFETY: created by `bytes_to_c` with this length, and freed once, as the caller promises.
        drop(unsafe { Box::from_raw(whole) });
    }
}
