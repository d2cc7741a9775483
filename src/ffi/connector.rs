//! The connector for C.

use std::ffi::{c_char, c_int};

use super::descriptor::duplicate;
use super::error::{Failure, Status};
use super::guard::guard;
use super::input::{self, JSON_MAX};
use super::sigpipe::SigpipeBlocked;
use crate::connector::{self, ConnectorError, ControlError, Options};

/// Runs the source's end of a tunnel until its input ends.
///
/// Uses the protocol of proxmox-websocket-tunnel, with one JSON line for each JSON line: it reads
/// commands from `input` and writes answers to `output`. Messages go to `log`, one line each; -1
/// disables them. The UNIX sockets of forwards have mode 0600, and are removed at the end. The
/// answer to an invalid line contains the mistake, and the connector continues.
///
/// `options` is NULL for the defaults, or a JSON object. Each member is optional:
///
///   mask               "zero" (the default) or "random": the masking keys of frames over TLS
///   connect_timeout    time limit for TCP to connect, by default 10
///   handshake_timeout  time limit for the TLS handshake, by default 10
///   upgrade_timeout    time limit for the websocket upgrade, by default 20
///   ticket_timeout     time limit for the worker's answer to a ticket command, by default 30
///   dead_peer_timeout  time without progress after which a connection to the API counts as dead,
///                      by default 60
///   ping_interval      time without a sent frame after which a websocket sends a ping, by default 20
///   congestion         how TCP reacts to loss on connections with guest data: "auto" (the default),
///                      "system", "bbr" or "cubic"
///   buffer             the size of their buffers: "auto" (the default), "system", or a number of
///                      bytes from 65536 to 268435456
///   end_with_parent    true: the kernel sends SIGTERM when the thread that forked this process
///                      ends; by default false
///
/// Times are in seconds, from 0.001 to 3600.
///
/// Returns 0 after the end of `input`. The descriptors (pipes, sockets, terminals, files) belong to
/// the caller: the function does not close them, and does not make them non-blocking.
///
/// During the call SIGHUP, SIGINT, SIGTERM, SIGALRM and SIGPIPE are blocked in the calling thread.
/// The first four end the call with IO, unless the process ignores them, as under nohup. After
/// everything is cleaned up and the signal mask is restored, the signal is raised again for the
/// caller's handler or the default action. Writing to a pipe without a reader does not cause
/// SIGPIPE: without a reader of `output`, answers are discarded, and commands still reach the
/// worker. Signal handlers are never changed. To resolve a host name the function starts a thread,
/// which may exist until the resolver returns.
///
/// The process's soft limit on open descriptors is raised, at most to its hard limit.
///
/// During the call the process is not dumpable (PR_SET_DUMPABLE): it writes no core, and only root
/// can read its memory. The library wipes the memory that it frees.
///
/// Errors: INVALID_ARGUMENT for a bad descriptor or bad options; NOT_UTF8; TOO_LONG above 1 MiB of
/// options; PROTOCOL if the worker sends a line above 1 MiB, or more than 16 lines that no command
/// requested; IO if `input` or `output` fail, a requested connection cannot be opened, the control
/// connection ends before `input`, or a signal arrives.
///
/// Threads: any. The call blocks the thread, and is intended for a process forked for this purpose.
/// Several calls may run at the same time on different descriptors.
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
        // SAFETY: NULL or a C string, as the caller promises.
        let options: Options = match unsafe { input::optional_text(options, "options", JSON_MAX) }?
        {
            Some(text) => input::json(text, "options")?,
            None => Options::default(),
        };
        let input = duplicate(input, "input")?;
        let output = duplicate(output, "output")?;
        let log = match log {
            -1 => None,
            log => Some(duplicate(log, "log")?),
        };
        let _blocked = SigpipeBlocked::new()?;
        connector::run(input, output, log, &options)
            .map_err(|error| Failure::from_error(run_status(&error), &error))
    })
}

fn run_status(error: &ConnectorError) -> Status {
    match error {
        ConnectorError::Control(ControlError::TooLong | ControlError::Unrequested) => {
            Status::Protocol
        }
        _ => Status::Io,
    }
}
