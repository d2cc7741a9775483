//! Statuses, messages, and the last outcome of each thread.

use std::cell::RefCell;
use std::error::Error;
use std::ffi::{CStr, CString, c_char};

/// Longest message kept, in bytes: an error may quote its input, and input may be a mebibyte.
const MESSAGE_MAX: usize = 4096;

/// What a function returned: 0, or one of these negative numbers.
///
/// Numbers never change their meaning; later versions may add some, so treat an unknown negative
/// number as a failure.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Success.
    Ok = 0,
    /// A pointer that must not be NULL was NULL.
    NullPointer = -1,
    /// An argument has a value that makes no sense here; the message names it.
    InvalidArgument = -2,
    /// A string is not UTF-8.
    NotUtf8 = -3,
    /// An argument is longer than the limit stated with the function.
    TooLong = -4,
    /// What a peer sent breaks the protocol.
    Protocol = -5,
    /// The operating system or the network refused; the message says what was tried and why it
    /// failed.
    Io = -6,
    /// Understood, and declined: a plan that is not possible, an endpoint that is not safe, a
    /// handle that is broken.
    Refused = -7,
    /// The handle was made by another process, before a fork.
    WrongProcess = -8,
    /// A defect in this library, caught at its border. The message is worth a bug report.
    Panic = -9,
}

/// Why a function of the ABI failed.
#[derive(Debug)]
pub struct Failure {
    status: Status,
    message: String,
}

impl Failure {
    /// A failure with its status and a message for people, without the function's name.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message }
    }

    /// A failure of a room, with the causes below it that its own message leaves out.
    pub(super) fn from_room(status: Status, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut below = error.source();
        while let Some(cause) = below {
            let text = cause.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            below = cause.source();
        }
        Self { status, message }
    }
}

struct LastOutcome {
    status: Status,
    /// `None` after a success: no allocation on the way that is taken a million times.
    message: Option<CString>,
}

thread_local! {
    static LAST: RefCell<LastOutcome> = const {
        RefCell::new(LastOutcome { status: Status::Ok, message: None })
    };
}

/// Keeps the outcome for `pve_tunnel_last_error` and gives the number to return.
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
    // While a thread ends its locals may be gone already; the returned status still tells the
    // caller.
    let _ = LAST.try_with(|kept| kept.replace(last));
    status
}

/// `function: message` as one bounded C string on one line, so that it can be logged as it is.
fn c_message(function: &str, message: &str) -> CString {
    let mut text = format!("{function}: {message}");
    if text.len() > MESSAGE_MAX {
        let end = (0..=MESSAGE_MAX)
            .rev()
            .find(|&at| text.is_char_boundary(at))
            .unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    // A NUL is a control character: none is left for this to fail on.
    CString::new(line).unwrap_or_default()
}

/// Message of the last failure in the calling thread, one line of UTF-8 that starts with the
/// function's name.
///
/// Returns "" if the thread's last call succeeded or it made none; never NULL. The text belongs to
/// the library and is valid until the thread's next call that returns a status (or makes one to be
/// read here, as `pve_tunnel_codec_free` in the wrong process does), or until the thread ends. It
/// holds no ticket, token or key.
///
/// Threads: any; each has its own.
#[unsafe(no_mangle)]
pub extern "C" fn pve_tunnel_last_error() -> *const c_char {
    let none: &'static CStr = c"";
    LAST.try_with(|kept| match &kept.borrow().message {
        Some(message) => message.as_ptr(),
        None => none.as_ptr(),
    })
    .unwrap_or(none.as_ptr())
}

/// Status of the calling thread's last call that had one: 0 or a negative `pve_tunnel_status`.
///
/// Kept as long as the text of `pve_tunnel_last_error`.
///
/// Threads: any; each has its own.
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
    }

    #[test]
    fn causes_below_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read the plan")]
        struct Outer(#[source] std::io::Error);

        let failure = Failure::from_room(Status::Io, &Outer(std::io::Error::other("disk on fire")));
        assert_eq!(failure.message, "cannot read the plan: disk on fire");
    }
}
