//! The listener for C.

use std::ffi::{c_char, c_int};

use super::descriptor::duplicate;
use super::error::{Failure, Status};
use super::guard::guard;
use super::input::{self, JSON_MAX};
use super::sigpipe::SigpipeBlocked;
use crate::listener::{self, ListenerError, Options};

/// Runs the target's end of direct connections until its worker has no more use for it.
///
/// `control` is one end of a UNIX stream socket pair, the worker's line: a JSON line for a JSON
/// line. The first line is this function's: where it listens and what the source needs to be let
/// in (`protocol`, `plane`, `addresses`, `port`, `fingerprint`, `key`), or {"error":"..."}. Then it
/// answers {"op":"forward","path":"/run/..."} with {"number":1}, {"op":"stat"} with counters, and
/// {"op":"close"} with the last counters before it ends. One line for each thing worth telling goes
/// to `log`, or nowhere if that is -1. docs/protocol.md describes all of it, and the connections.
///
/// `options` is a JSON object:
///
///   plane              "tls" or "tcp"
///   network            CIDR or interface name to listen on, or null
///   node               name of this node, whose address counts without `network`
///   fingerprint        "tls": SHA-256 of the source's one-time certificate
///   public             true: "tcp" may listen on a publicly routable address, by default false
///   hello_timeout      for a connection to say who it is, by default 10
///   dead_peer_timeout  for the source to be silent, by default 60
///
/// Times are in seconds, from 0.001 to 3600.
///
/// Ends with 0 after `close` and after the end of `control`. It also ends when the process that
/// forked this one dies, by SIGTERM from the kernel (PR_SET_PDEATHSIG). The descriptors stay the
/// caller's: they are not closed, and not made non-blocking. Every descriptor that is not its own
/// should have been closed before.
///
/// Meanwhile SIGHUP, SIGINT, SIGTERM, SIGALRM and SIGPIPE are blocked in the calling thread. One of
/// the first four ends it, with IO; once everything is cleaned up and the signal mask restored, the
/// signal is raised again. Handlers are never touched.
///
/// The process's soft limit on open descriptors is raised, as far as its hard limit allows.
///
/// Errors: NULL_POINTER, NOT_UTF8, TOO_LONG above 1 MiB, INVALID_ARGUMENT for bad options or
/// descriptors; REFUSED if there is no address to listen on, or clear text may not be received
/// there; IO if no port is free, `control` fails, or a signal came.
///
/// Threads: any, and blocks it. Meant for a process forked for it.
///
/// # Safety
///
/// `options` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_listener_run(
    control: c_int,
    log: c_int,
    options: *const c_char,
) -> i32 {
    guard("pve_tunnel_listener_run", || {
        // SAFETY: a C string, as the caller promises.
        let text = unsafe { input::text(options, "options", JSON_MAX) }?;
        let options: Options = input::json(text, "options")?;
        let control = duplicate(control, "control")?;
        let log = match log {
            -1 => None,
            log => Some(duplicate(log, "log")?),
        };
        let _blocked = SigpipeBlocked::new()?;
        listener::run(control, log, &options)
            .map_err(|error| Failure::from_room(run_status(&error), &error))
    })
}

fn run_status(error: &ListenerError) -> Status {
    match error {
        ListenerError::Options(_) | ListenerError::Tls(_) => Status::InvalidArgument,
        ListenerError::Network(error) => super::network::network_status(error),
        ListenerError::Public(_) => Status::Refused,
        _ => Status::Io,
    }
}
