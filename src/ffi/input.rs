//! C strings, bytes and output pointers as Rust types, with their limits.

use std::ffi::c_char;
use std::fmt::Display;
use std::ptr::NonNull;
use std::slice;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{Failure, Status};
use super::memory;

/// Longest JSON text, in bytes. It is much longer than any plan or endpoint, and short enough to be
/// parsed in a daemon.
pub(super) const JSON_MAX: usize = 1 << 20;

/// Longest name, address or fingerprint, in bytes. Valid ones are much shorter. The limit ends the
/// search for a NUL.
pub(super) const NAME_MAX: usize = 4096;

/// Reads a C string of at most `max` bytes. `what` is the name of the argument in messages. Fails if
/// there is not enough memory to parse it.
///
/// # Safety
/// `text` is NULL, or readable up to and including a NUL byte or `max + 1` bytes. It does not
/// change while the result exists.
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
            format!("{what} is not UTF-8 from byte {}", error.valid_up_to()),
        )
    })
}

/// As [`text`](fn@text), without the check for UTF-8, which the caller makes with its own message.
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
    // reads no further.
    let len = unsafe { libc::strnlen(text, max + 1) };
    if len > max {
        return Err(Failure::new(
            Status::TooLong,
            format!("{what} is longer than {max} bytes"),
        ));
    }
    memory::check_available(len)?;
    // SAFETY: strnlen has just read these bytes, and the NUL after them.
    Ok(unsafe { slice::from_raw_parts(text.cast::<u8>(), len) })
}

/// As [`text`](fn@text), where NULL stands for an absent argument.
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

/// Parses a JSON argument, which must be an object.
///
/// The check is made here, because serde also accepts an array of the members' values, and would
/// read `[]` as an object with all defaults.
pub(super) fn json<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, Failure> {
    let refused = |reason: &dyn Display| {
        Failure::new(
            Status::InvalidArgument,
            format!("{what} is not valid: {reason}"),
        )
    };
    if !text.trim_start().starts_with('{') {
        return Err(refused(&"it is not a JSON object"));
    }
    serde_json::from_str(text).map_err(|error| refused(&error))
}

/// A value as JSON text.
pub(super) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, Failure> {
    let mut output = memory::Output::default();
    match serde_json::to_writer(&mut output, value) {
        Ok(()) => Ok(output.0),
        Err(error) if error.is_io() => Err(Failure::out_of_memory(output.0.len() + 1)),
        Err(error) => Err(Failure::new(
            Status::Panic,
            format!("cannot write the answer as JSON: {error}"),
        )),
    }
}

/// At most `max` bytes. NULL is allowed if `len` is 0.
///
/// # Safety
/// `data` is NULL or readable for `len` bytes. The bytes do not change while the result exists.
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
    // SAFETY: not NULL, readable for `len` bytes as the caller promises, and `len` is at most
    // isize::MAX.
    Ok(unsafe { slice::from_raw_parts(data, len) })
}

/// As [`bytes`](fn@bytes), for a change in place.
///
/// # Safety
/// `data` is NULL, or readable and writable for `len` bytes. Nothing else uses the bytes while the
/// result exists.
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
    // SAFETY: not NULL, writable for `len` bytes that nothing else uses, as the caller promises,
    // and `len` is at most isize::MAX.
    Ok(unsafe { slice::from_raw_parts_mut(data, len) })
}

/// The four bytes of a masking key.
///
/// # Safety
/// `key` is NULL or readable for 4 bytes.
pub(super) unsafe fn key(key: *const u8) -> Result<[u8; 4], Failure> {
    not_null(key, "key")?;
    // SAFETY: not NULL, and four bytes as the caller promises; an array of bytes needs no
    // alignment.
    Ok(unsafe { key.cast::<[u8; 4]>().read() })
}

/// A handle that is not NULL.
///
/// # Safety
/// `handle` is NULL, or an output of the `_new` function of its type that is not freed.
pub(super) unsafe fn handle<'a, T>(handle: *const T, what: &str) -> Result<&'a T, Failure> {
    not_null(handle, what)?;
    // SAFETY: not NULL, and not freed, as the caller promises.
    Ok(unsafe { &*handle })
}

/// The pointer to an output. It is checked before the work, and written after it.
pub(super) struct Out<T>(NonNull<T>);

impl<T> Out<T> {
    pub(super) fn new(pointer: *mut T, what: &str) -> Result<Self, Failure> {
        NonNull::new(pointer).map(Self).ok_or_else(|| null(what))
    }

    /// # Safety
    /// The pointer is aligned, and its target is writable.
    pub(super) unsafe fn write(self, value: T) {
        // SAFETY: not NULL, writable and aligned, as the caller promises. The old value may be
        // uninitialised, and is not dropped.
        unsafe { self.0.as_ptr().write(value) }
    }
}

fn check_len(len: usize, what: &str, max: usize) -> Result<(), Failure> {
    if len > max {
        return Err(Failure::new(
            Status::TooLong,
            format!("{what} has {len} bytes, at most {max} are accepted"),
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
