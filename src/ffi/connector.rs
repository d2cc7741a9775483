//! The connector for C.

use std::ffi::{c_char, c_int};

use super::error::{Failure, Status};
use super::guard::guard;

/// Runs the source's end of a tunnel until its input ends.
///
/// Speaks the protocol of proxmox-websocket-tunnel, one JSON line for one JSON line: reads commands from `input`,
/// writes answers to `output`, and one line for each thing worth telling to `log`, or nowhere if that is -1.
/// Forwards' UNIX sockets are made with mode 0600 and removed at the end. Bad lines get an answer line or a log
/// line, and it goes on.
///
/// `options` is NULL for the defaults, or a JSON object whose members are all optional:
///
///   mask               "zero" (the default) or "random": how frames over TLS are masked
///   connect_timeout    seconds for TCP to connect, by default 10
///   handshake_timeout  seconds for TLS, by default 10
///   upgrade_timeout    seconds for the websocket upgrade, by default 20
///   ticket_timeout     seconds for the worker to answer a ticket command, by default 30
///
/// Seconds may have a fraction.
///
/// The descriptors (pipes, sockets or terminals) stay the caller's: they are not closed, and have the same file
/// status flags afterwards as before. Threads that it starts end before it returns. SIGPIPE is blocked in the
/// calling thread meanwhile; a reader that went away is an error.
///
/// Errors: INVALID_ARGUMENT for a bad descriptor or bad options; NOT_UTF8; TOO_LONG above 1 MiB of options; IO if
/// input, output or log fail.
///
/// Threads: any, and blocks it. Meant for a process forked for it. Several may run at once on different
/// descriptors.
///
/// # Safety
///
/// `options` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_connector_run(
    input: c_int,
    output: c_int,
    log: c_int,
    options: *const c_char,
) -> i32 {
    guard("pve_tunnel_connector_run", || {
        Err(Failure::new(Status::Refused, "not in this build"))
    })
}
