//! Statuses, messages, and the last result of each thread.

use crate::scalar::visible;
use std::cell::RefCell;
use std::error::Error;
use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::io::Write;

/// Longest message that is kept, in bytes. An error may quote its input, which may have a mebibyte.
const MESSAGE_MAX: usize = 4096;

/// Bytes for a message that needs no allocation, with its NUL.
const SHORT_MAX: usize = 192;

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
    /// The memory that the call needs for its input cannot be allocated. Nothing has changed: the
    /// same call works when there is memory again.
    OutOfMemory = -10,
}

/// Why a function of the ABI failed.
#[derive(Debug)]
pub struct Failure {
    status: Status,
    message: Message,
}

#[derive(Debug)]
enum Message {
    Text(String),
    /// A text about a failed allocation of so many bytes. It is written without an allocation.
    CannotAllocate(usize),
}

impl Failure {
    /// A failure with its status and message. The message does not contain the function's name.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        let message = Message::Text(message.into());
        Self { status, message }
    }

    /// The failure of an allocation of so many bytes.
    pub(super) fn out_of_memory(bytes: usize) -> Self {
        Self {
            status: Status::OutOfMemory,
            message: Message::CannotAllocate(bytes),
        }
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
        Self::new(status, message)
    }
}

struct LastOutcome {
    status: Status,
    /// `None` after a success, so that successful calls do not allocate memory.
    message: Option<CString>,
    /// The message if `message` is `None`, with a NUL at its end. Empty after a success.
    short: [u8; SHORT_MAX],
}

impl LastOutcome {
    const NONE: Self = Self {
        status: Status::Ok,
        message: None,
        short: [0; SHORT_MAX],
    };

    fn keep(&mut self, function: &str, outcome: Result<(), Failure>) {
        self.status = Status::Ok;
        self.message = None;
        self.short[0] = 0;
        let Err(failure) = outcome else {
            return;
        };
        self.status = failure.status;
        match failure.message {
            Message::Text(text) => {
                self.message = c_message(function, &text);
                if self.message.is_none() {
                    self.keep_short(format_args!("{function}: no memory for the message"));
                }
            }
            Message::CannotAllocate(bytes) => self.keep_short(format_args!(
                "{function}: cannot allocate {bytes} bytes: the system has no memory left, or the \
                 process has reached its limit; free memory and call again"
            )),
        }
    }

    /// Keeps a text in ASCII. A text that is too long is cut.
    fn keep_short(&mut self, text: fmt::Arguments<'_>) {
        let mut free = &mut self.short[..SHORT_MAX - 1];
        // Fails if the text is too long.
        let _ = free.write_fmt(text);
        let end = SHORT_MAX - 1 - free.len();
        self.short[end] = 0;
    }

    fn text(&self) -> *const c_char {
        match &self.message {
            Some(message) => message.as_ptr(),
            None => self.short.as_ptr().cast(),
        }
    }
}

thread_local! {
    static LAST: RefCell<LastOutcome> = const { RefCell::new(LastOutcome::NONE) };
}

/// Keeps the result for `pve_tunnel_last_error`, and returns the number for the caller.
pub(super) fn remember(function: &str, outcome: Result<(), Failure>) -> i32 {
    let status = match &outcome {
        Ok(()) => Status::Ok,
        Err(failure) => failure.status,
    };
    // Fails if the thread is ending and has destroyed its local values. The status is returned
    // anyway.
    let _ = LAST.try_with(|kept| kept.borrow_mut().keep(function, outcome));
    status as i32
}

/// `function: message` as a C string on one line, with a bounded length, ready for a log. `None` if
/// there is no memory for it.
fn c_message(function: &str, message: &str) -> Option<CString> {
    let parts = [function, ": ", message];
    let characters = || parts.iter().flat_map(|part| part.chars()).flat_map(visible);
    // How many characters fit, and their length in bytes.
    let (mut count, mut length, mut end) = (0, 0, "");
    for c in characters() {
        if length + c.len_utf8() > MESSAGE_MAX {
            end = "...";
            break;
        }
        length += c.len_utf8();
        count += 1;
    }
    let mut line = String::new();
    line.try_reserve_exact(length + end.len() + 1).ok()?;
    line.extend(characters().take(count));
    line.push_str(end);
    line.push('\0');
    // NUL is a control character and was replaced, so the only one is at the end.
    CString::from_vec_with_nul(line.into_bytes()).ok()
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
    LAST.try_with(|kept| kept.borrow().text())
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
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_message_is_one_bounded_line() {
        let line = c_message("pve_tunnel_plan", "two\nlines and a\0nul").unwrap();
        assert_eq!(
            line.to_str().unwrap(),
            "pve_tunnel_plan: two lines and a nul"
        );

        let long = c_message("f", &"\u{e4}".repeat(MESSAGE_MAX)).unwrap();
        let text = long.to_str().unwrap();
        assert!(text.len() <= MESSAGE_MAX + 3 && text.ends_with("..."));

        let escaped = c_message("f", &"\u{202e}".repeat(MESSAGE_MAX / 4)).unwrap();
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
        let Message::Text(text) = failure.message else {
            panic!("not a text: {failure:?}");
        };
        assert_eq!(text, "cannot read the plan: disk error");
    }

    #[test]
    fn a_message_without_an_allocation_is_a_whole_sentence() {
        // The longest name of a function.
        let function = "pve_tunnel_configuration_select";
        let mut last = LastOutcome::NONE;
        last.keep(function, Err(Failure::out_of_memory(usize::MAX)));
        assert!(last.message.is_none());
        let text = CStr::from_bytes_until_nul(&last.short).unwrap();
        assert_eq!(
            text.to_str().unwrap(),
            format!(
                "{function}: cannot allocate {} bytes: the system has no memory left, or the process \
                 has reached its limit; free memory and call again",
                usize::MAX
            )
        );

        last.keep_short(format_args!("{}", "x".repeat(SHORT_MAX)));
        let text = CStr::from_bytes_until_nul(&last.short).unwrap();
        assert_eq!(text.count_bytes(), SHORT_MAX - 1);

        last.keep(function, Ok(()));
        assert_eq!(last.short[0], 0);
    }
}
