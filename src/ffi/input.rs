//! C strings, bytes and output places as Rust types, within their bounds.

use std::ffi::c_char;
use std::fmt::Display;
use std::ptr::NonNull;
use std::slice;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{Failure, Status};

/// Longest JSON text: far above any plan or endpoint, far below what would make parsing it a burden
/// on a daemon.
pub(super) const JSON_MAX: usize = 1 << 20;

/// Longest name, address or fingerprint. Each of them is much shorter where it is valid; this only
/// ends the search for a NUL.
pub(super) const NAME_MAX: usize = 4096;

/// Reads a C string of at most `max` bytes; `what` names the argument in messages.
///
/// # Safety
/// `text` is NULL, or readable up to and including a NUL byte or `max + 1` bytes, and unchanged
/// while the result lives.
pub(super) unsafe fn text<'a>(
    text: *const c_char,
    what: &str,
    max: usize,
) -> Result<&'a str, Failure> {
    // SAFETY: the caller's promise is the same one.
    let bytes = unsafe { c_bytes(text, what, max) }?;
    std::str::from_utf8(bytes).map_err(|error| {
        Failure::new(
            Status::NotUtf8,
            format!("{what} is not UTF-8 from byte {} on", error.valid_up_to()),
        )
    })
}

/// As [`text`](fn@text), for a room that says itself where something is not UTF-8.
///
/// # Safety
/// As for [`text`](fn@text).
pub(super) unsafe fn c_bytes<'a>(
    text: *const c_char,
    what: &str,
    max: usize,
) -> Result<&'a [u8], Failure> {
    not_null(text, what)?;
    // SAFETY: not NULL, and readable up to a NUL or the limit, as the caller promises; strnlen
    // looks no further.
    let len = unsafe { libc::strnlen(text, max + 1) };
    if len > max {
        return Err(Failure::new(
            Status::TooLong,
            format!("{what} is longer than {max} bytes"),
        ));
    }
    // SAFETY: strnlen has just read these bytes, and the NUL behind them.
    Ok(unsafe { slice::from_raw_parts(text.cast::<u8>(), len) })
}

/// As [`text`](fn@text), with NULL for "not given".
///
/// # Safety
/// As for [`text`](fn@text).
pub(super) unsafe fn optional_text<'a>(
    given: *const c_char,
    what: &str,
    max: usize,
) -> Result<Option<&'a str>, Failure> {
    if given.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise is the same one.
    unsafe { text(given, what, max) }.map(Some)
}

/// Parses a JSON argument, which is an object.
///
/// Asked for here, because serde also takes an array of the members' values for one, and would read
/// `[]` as "all defaults".
pub(super) fn json<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, Failure> {
    let refused = |reason: &dyn Display| {
        Failure::new(
            Status::InvalidArgument,
            format!("{what} is not the JSON expected here: {reason}"),
        )
    };
    if !text.trim_start().starts_with('{') {
        return Err(refused(&"it does not begin as an object"));
    }
    serde_json::from_str(text).map_err(|error| refused(&error))
}

/// Writes a value of a room as JSON text.
pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| {
        Failure::new(
            Status::Panic,
            format!("cannot write the answer as JSON: {error}"),
        )
    })
}

/// Bytes of at most `max`; NULL is allowed where `len` is 0.
///
/// # Safety
/// `data` is readable for `len` bytes (or NULL), and unchanged while the result lives.
pub(super) unsafe fn bytes<'a>(
    data: *const u8,
    len: usize,
    what: &str,
    max: usize,
) -> Result<&'a [u8], Failure> {
    check_len(len, what, max)?;
    if len == 0 {
        return Ok(&[]);
    }
    not_null(data, what)?;
    // SAFETY: not NULL, readable for `len` bytes as the caller promises, and `len` is below
    // isize::MAX.
    Ok(unsafe { slice::from_raw_parts(data, len) })
}

/// As [`bytes`](fn@bytes), to change in place.
///
/// # Safety
/// `data` is readable and writable for `len` bytes (or NULL), and nobody else's while the result
/// lives.
pub(super) unsafe fn bytes_mut<'a>(
    data: *mut u8,
    len: usize,
    what: &str,
    max: usize,
) -> Result<&'a mut [u8], Failure> {
    check_len(len, what, max)?;
    if len == 0 {
        return Ok(&mut []);
    }
    not_null(data, what)?;
    // SAFETY: not NULL, the caller's alone for `len` bytes, and `len` is below isize::MAX.
    Ok(unsafe { slice::from_raw_parts_mut(data, len) })
}

/// The four bytes of a masking key.
///
/// # Safety
/// `key` is NULL or readable for 4 bytes.
pub(super) unsafe fn key(key: *const u8) -> Result<[u8; 4], Failure> {
    not_null(key, "key")?;
    // SAFETY: not NULL, and four bytes as the caller promises; an array of bytes has no alignment
    // to keep.
    Ok(unsafe { key.cast::<[u8; 4]>().read() })
}

/// A handle that is not NULL.
///
/// # Safety
/// `handle` is NULL, or came from the `_new` function of its type and was not freed.
pub(super) unsafe fn handle<'a, T>(handle: *const T, what: &str) -> Result<&'a T, Failure> {
    not_null(handle, what)?;
    // SAFETY: not NULL, and alive as the caller promises.
    Ok(unsafe { &*handle })
}

/// Where an output goes; checked before the work, written after it.
pub(super) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    pub(super) fn new(place: *mut T, what: &str) -> Result<Self, Failure> {
        NonNull::new(place).map(Self).ok_or_else(|| null(what))
    }

    /// # Safety
    /// The place is writable and aligned.
    pub(super) unsafe fn write(self, value: T) {
        // SAFETY: not NULL, writable and aligned as the caller promises; what was there may be
        // uninitialised and is not dropped.
        unsafe { self.0.as_ptr().write(value) }
    }
}

fn check_len(len: usize, what: &str, max: usize) -> Result<(), Failure> {
    if len > max {
        return Err(Failure::new(
            Status::TooLong,
            format!("{what} has {len} bytes, more than {max}"),
        ));
    }
    Ok(())
}

fn not_null<T>(pointer: *const T, what: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(null(what));
    }
    Ok(())
}

fn null(what: &str) -> Failure {
    Failure::new(Status::NullPointer, format!("{what} is NULL"))
}
