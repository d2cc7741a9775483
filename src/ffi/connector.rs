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
/// Speaks the protocol of proxmox-websocket-tunnel, one JSON line for one JSON line: reads commands
/// from `input`, writes answers to `output`, and one line for each thing worth telling to `log`, or
/// nowhere if that is -1. Forwards' UNIX sockets are made with mode 0600 and removed at the end.
/// Bad lines get an answer line that says so, and it goes on.
///
/// `options` is NULL for the defaults, or a JSON object whose members are all optional:
///
///   mask               "zero" (the default) or "random": how frames over TLS are masked
///   connect_timeout    for TCP to connect, by default 10
///   handshake_timeout  for TLS, by default 10
///   upgrade_timeout    for the websocket upgrade, by default 20
///   ticket_timeout     for the worker to answer a ticket command, by default 30
///   dead_peer_timeout  for data to make no progress on a connection to the API, by default 60
///   end_with_parent    true: SIGTERM comes when the thread that forked this process ends (false)
///
/// Times are in seconds, from 0.001 to 3600.
///
/// Ends with 0 after the end of `input`. The descriptors (pipes, sockets, terminals, files) stay
/// the caller's: they are not closed, and not made non-blocking.
///
/// Meanwhile SIGHUP, SIGINT, SIGTERM, SIGALRM and SIGPIPE are blocked in the calling thread. One of
/// the first four ends it, with IO; once everything is cleaned up and the signal mask restored, the
/// signal is raised again, so that the caller's handler or the default action takes it. A reader
/// that went away is an error and no SIGPIPE. Handlers are never touched. Resolving a host name
/// starts a thread, which may live on until the resolver gives up.
///
/// The process's soft limit on open descriptors is raised, as far as its hard limit allows.
///
/// Errors: INVALID_ARGUMENT for a bad descriptor or bad options; NOT_UTF8; TOO_LONG above 1 MiB of
/// options; PROTOCOL if the worker sends a line above 1 MiB; IO if `input` or `output` fail, a
/// connection that was asked for could not be opened, the control connection ended before `input`
/// did, or a signal came.
///
/// Threads: any, and blocks it. Meant for a process forked for it. Several may run at once on
/// different descriptors.
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
            .map_err(|error| Failure::from_room(run_status(&error), &error))
    })
}

fn run_status(error: &ConnectorError) -> Status {
    match error {
        ConnectorError::Control(ControlError::TooLong) => Status::Protocol,
        _ => Status::Io,
    }
}
