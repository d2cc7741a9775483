//! The seam's decisions, for C.

use std::ffi::c_char;

use serde_json::Value;

use super::error::{Failure, Status};
use super::guard::guard;
use super::input::{self, JSON_MAX, NAME_MAX, Out};
use super::{memory, string};
use crate::configuration::MAX_FILE;
use crate::seam::{self, FieldError, SeamError, SeamInput};

/// Decides what a tunnel worker on the target does with a request about direct connections. Does no
/// I/O: the caller reads the configuration and carries the action out. docs/protocol.md describes the
/// requests.
///
/// `text` is the content of the configuration, or NULL if there is no such file. `input` is a JSON
/// object:
///
///   direct      the request: the property `direct` of the worker's command, as it arrived
///   file        path of the configuration, for messages
///   unreadable  why the configuration could not be read, or null
///   node        name of this node
///   user        user of the API that the worker runs for, for messages, or null
///   allowed     whether the user has the privilege of an earlier "check", or null
///   listener    "none", "running" or "ended"
///   sockets     paths of the UNIX sockets that the worker has for this migration
///   socket      path of the worker's own socket, or null
///   meter       "none", "running" or "ended"; absent: "none"
///
/// `out` gets a JSON object, to be freed with `pve_tunnel_string_free`:
///
///   {"do":"check","path":"/","privilege":"Sys.Modify"}
///               look the privilege up, then call again with the result in `allowed`
///   {"do":"reply","reply":{...}}
///               answer the source
///   {"do":"listen","options":{...}}
///               start pve_tunnel_listener_run with these options; its first line is the answer
///   {"do":"ask","request":{"op":"forward","path":"/run/..."}}
///               send the request to the listener; its line is the answer
///   {"do":"meter","options":{"path":"/run/...","seconds":300,...}}
///               start a meter on that socket, unless it is running, and answer with the options
///   {"do":"close"}
///               as "ask" with {"op":"close"}; then the listener ends
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `input` is not such an
/// object; PROTOCOL if the request is malformed; REFUSED if it is not allowed.
///
/// Threads: any.
///
/// # Safety
///
/// `text` is NULL or a C string, `input` is a C string, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_seam_decide(
    text: *const c_char,
    input: *const c_char,
    out: *mut *mut c_char,
) -> i32 {
    guard("pve_tunnel_seam_decide", || {
        let out = Out::new(out, "out")?;
        let content = if text.is_null() {
            &[]
        } else {
            // SAFETY: not NULL and so a C string, as the caller promises.
            unsafe { input::c_bytes(text, "text", MAX_FILE) }?
        };
        // SAFETY: a C string, as the caller promises.
        let known = unsafe { input::text(input, "input", JSON_MAX) }?;
        memory::check_available(content.len() + known.len())?;
        let known: SeamInput = input::json(known, "input")?;
        let action = seam::decide(content, &known)
            .map_err(|error| Failure::from_error(status(&error), &error))?;
        let answer = string::to_c(input::to_json(&action)?)?;
        // SAFETY: writable, as the caller promises.
        unsafe { out.write(answer.into_raw()) };
        Ok(())
    })
}

/// Checks what a listener answered, before the worker sends it to the source.
///
/// `operation` is "open" for the listener's first line, else "forward", "stat" or "close". `answer` is
/// the line. `out` gets the answer with the known members only, to be freed with
/// `pve_tunnel_string_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; PROTOCOL if a member is missing or malformed.
/// The message names the member and does not contain its value.
///
/// Threads: any.
///
/// # Safety
///
/// `operation` and `answer` are C strings, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_seam_answer(
    operation: *const c_char,
    answer: *const c_char,
    out: *mut *mut c_char,
) -> i32 {
    guard("pve_tunnel_seam_answer", || {
        let out = Out::new(out, "out")?;
        // SAFETY: a C string, as the caller promises.
        let operation = unsafe { input::text(operation, "operation", NAME_MAX) }?;
        // SAFETY: a C string, as the caller promises.
        let line = unsafe { input::text(answer, "answer", JSON_MAX) }?;
        let malformed = |error: &FieldError| Failure::from_error(Status::Protocol, error);
        let answer: Value =
            serde_json::from_str(line).map_err(|_| malformed(&FieldError::NotObject))?;
        let checked = seam::check_answer(operation, &answer).map_err(|error| malformed(&error))?;
        let checked = string::to_c(input::to_json(&checked)?)?;
        // SAFETY: writable, as the caller promises.
        unsafe { out.write(checked.into_raw()) };
        Ok(())
    })
}

fn status(error: &SeamError) -> Status {
    match error {
        SeamError::NotObject
        | SeamError::NoOperation
        | SeamError::UnknownOperation { .. }
        | SeamError::Request { .. } => Status::Protocol,
        SeamError::Node => Status::InvalidArgument,
        _ => Status::Refused,
    }
}
