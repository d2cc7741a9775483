//! The listener for C.

use std::ffi::{c_char, c_int};

use super::descriptor::duplicate;
use super::error::{Failure, Status};
use super::guard::guard;
use super::input::{self, JSON_MAX};
use super::sigpipe::SigpipeBlocked;
use crate::listener::{self, ListenerError, Options};

/// Runs the target's end of direct connections until its worker closes it.
///
/// `control` is one end of a UNIX stream socket pair, whose other end the worker uses. It carries
/// JSON lines. The listener sends the first line: its addresses, and what the source needs to
/// connect (`protocol`, `plane`, `key`, and `addresses`, `port` and `fingerprint`, or `path`), or
/// {"error":"..."}.
/// Afterwards it answers each line of the worker: {"op":"forward","path":"/run/..."} with
/// {"number":1}, {"op":"stat"} with counters, and {"op":"close"} with the last counters before it
/// ends. Messages go to `log`, one line each; -1 disables them. docs/protocol.md specifies the
/// lines and the connections.
///
/// `options` is a JSON object:
///
///   plane              "tls", "tcp", or "websocket" for connections through the API
///   path               for "websocket": where to make the UNIX socket that they arrive at
///   owner              for "websocket": ID of the user that may connect to it, or null
///   network            CIDR or interface name to listen on, or null
///   node               name of this node, whose address is used without `network`
///   fingerprint        for "tls": SHA-256 of the source's one-time certificate
///   public             true: "tcp" may listen on a publicly routable address; by default false
///   hello_timeout      time limit for TLS and the handshake of a connection, by default 10
///   dead_peer_timeout  time after which a silent source counts as dead, by default 60
///   congestion         how TCP reacts to loss: "auto" (the default), "system", "bbr" or "cubic"
///   buffer             the size of the buffers: "auto" (the default), "system", or a number of
///                      bytes from 65536 to 268435456
///   protocol           of the connections, 1 (the default) or 2, which permits several for a stream
///   threads            the threads that serve these connections beside the calling one, 1 to 16, by
///                      default a quarter of the cores
///
/// Times are in seconds, from 0.001 to 3600.
///
/// Returns 0 after `close`, and after the end of `control`. It also ends when the process that
/// forked this one dies, because the kernel then sends SIGTERM (PR_SET_PDEATHSIG). The descriptors
/// belong to the caller: the function does not close them, and does not make them non-blocking. The
/// caller should close all other descriptors before the call.
///
/// During the call SIGHUP, SIGINT, SIGTERM, SIGALRM and SIGPIPE are blocked in the calling thread.
/// The first four end the call with IO, unless the process ignores them, as under nohup. After
/// everything is cleaned up and the signal mask is restored, the signal is raised again. Signal
/// handlers are never changed.
///
/// The process's soft limit on open descriptors is raised, at most to its hard limit.
///
/// During the call the process is not dumpable (PR_SET_DUMPABLE): it writes no core, and only root
/// can read its memory. The library wipes the memory that it frees.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT for bad options or
/// descriptors; REFUSED if there is no address to listen on, or if the address may not receive
/// clear text; IO if no port is free, `control` fails, or a signal arrives.
///
/// Threads: any. The call blocks the thread, and is intended for a process forked for this purpose.
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
            .map_err(|error| Failure::from_error(run_status(&error), &error))
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
