//! Statuses, messages, and the last result of each thread.

use crate::scalar::visible;
use std::cell::RefCell;
use std::error::Error;
use std::ffi::{CStr, CString, c_char};

/// Longest message that is kept, in bytes. An error may quote its input, which may have a mebibyte.
const MESSAGE_MAX: usize = 4096;

/// The value that a function returns: 0 for success, or one of these negative numbers.
///
/// The meaning of a number never changes. Later versions may add numbers, so treat an unknown
/// negative number as a failure.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The call succeeded, and its outputs are written.
    Ok = 0,
    /// A pointer is NULL that must not be NULL.
    NullPointer = -1,
    /// An argument has a value that the function does not accept. The message names the argument.
    InvalidArgument = -2,
    /// A string is not UTF-8.
    NotUtf8 = -3,
    /// An argument is longer than the limit of the function.
    TooLong = -4,
    /// The data of a peer violates the protocol.
    Protocol = -5,
    /// The operating system or the network returned an error. The message contains the failed step
    /// and the cause.
    Io = -6,
    /// The arguments are valid, but the request is refused: for example, a plan is not possible, an
    /// endpoint is not safe, or an earlier call left the handle unusable.
    Refused = -7,
    /// Another process created the handle, before a fork.
    WrongProcess = -8,
    /// A defect in this library. Please report the message.
    Panic = -9,
}

/// Why a function of the ABI failed.
#[derive(Debug)]
pub struct Failure {
    status: Status,
    message: String,
}

impl Failure {
    /// A failure with its status and message. The message does not contain the function's name.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message }
    }

    /// A failure with the message of an error, and with the messages of its causes that the error's
    /// own message does not contain.
    pub(super) fn from_error(status: Status, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Self { status, message }
    }
}

struct LastOutcome {
    status: Status,
    /// `None` after a success, so that successful calls do not allocate memory.
    message: Option<CString>,
}

thread_local! {
    static LAST: RefCell<LastOutcome> = const {
        RefCell::new(LastOutcome { status: Status::Ok, message: None })
    };
}

/// Keeps the result for `pve_tunnel_last_error`, and returns the number for the caller.
pub(super) fn remember(function: &str, outcome: Result<(), Failure>) -> i32 {
    let last = match outcome {
        Ok(()) => LastOutcome {
            status: Status::Ok,
            message: None,
        },
        Err(failure) => LastOutcome {
            status: failure.status,
            message: Some(c_message(function, &failure.message)),
        },
    };
    let status = last.status as i32;
    // Fails if the thread is ending and has destroyed its local values. The status is returned
    // anyway.
    let _ = LAST.try_with(|kept| kept.replace(last));
    status
}

/// `function: message` as a C string on one line, with a bounded length, ready for a log.
fn c_message(function: &str, message: &str) -> CString {
    let text = format!("{function}: {message}");
    let mut line: String = text.chars().take(MESSAGE_MAX).flat_map(visible).collect();
    if text.len() > MESSAGE_MAX || line.len() > MESSAGE_MAX {
        while line.len() > MESSAGE_MAX {
            line.pop();
        }
        line.push_str("...");
    }
    // NUL is a control character and was replaced, so this does not fail.
    CString::new(line).unwrap_or_default()
}

/// Returns the message of the calling thread's last failure: one line of UTF-8 that begins with the
/// function's name.
///
/// Returns "" if the thread's last call succeeded, or if there was no call. Never NULL. The text
/// belongs to the library. It is valid until the thread's next call that sets a status, or until
/// the thread ends. Functions that return a status set it, and so does `pve_tunnel_codec_free` in
/// the wrong process. The text does not contain tickets, tokens or keys.
///
/// Threads: any. Each thread has its own message.
#[unsafe(no_mangle)]
pub extern "C" fn pve_tunnel_last_error() -> *const c_char {
    let none: &'static CStr = c"";
    LAST.try_with(|kept| match &kept.borrow().message {
        Some(message) => message.as_ptr(),
        None => none.as_ptr(),
    })
    .unwrap_or(none.as_ptr())
}

/// Returns the status of the calling thread's last call that set one: 0 or a negative
/// `pve_tunnel_status`.
///
/// It is kept as long as the text of `pve_tunnel_last_error`.
///
/// Threads: any. Each thread has its own status.
#[unsafe(no_mangle)]
pub extern "C" fn pve_tunnel_last_status() -> i32 {
    LAST.try_with(|kept| kept.borrow().status as i32)
        .unwrap_or(Status::Ok as i32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_message_is_one_bounded_line() {
        let line = c_message("pve_tunnel_plan", "two\nlines and a\0nul");
        assert_eq!(
            line.to_str().unwrap(),
            "pve_tunnel_plan: two lines and a nul"
        );

        let long = c_message("f", &"\u{e4}".repeat(MESSAGE_MAX));
        let text = long.to_str().unwrap();
        assert!(text.len() <= MESSAGE_MAX + 3 && text.ends_with("..."));

        let escaped = c_message("f", &"\u{202e}".repeat(MESSAGE_MAX / 4));
        let text = escaped.to_str().unwrap();
        assert!(text.len() <= MESSAGE_MAX + 3 && text.ends_with("..."));
        assert!(text.starts_with("f: \\u{202e}\\u{202e}"), "{text}");
    }

    #[test]
    fn each_cause_is_reported_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read the plan")]
        struct Outer(#[source] std::io::Error);

        let failure = Failure::from_error(Status::Io, &Outer(std::io::Error::other("disk error")));
        assert_eq!(failure.message, "cannot read the plan: disk error");
    }
}
