//! The worker's version reply and the plan, for C.

use std::ffi::c_char;

use super::error::{Failure, Status};
use super::guard::guard;

/// Reads the answer of a tunnel worker to the `version` command.
///
/// `json` is the line as it came, such as {"success":1,"api":2,"age":0,"caps":["insecure-remote"]}. `out` gets
/// {"api":2,"age":0,"caps":["insecure-remote"],"unknown":[]}: `caps` has the capabilities this library knows, `unknown` those it
/// does not, which change nothing. No `caps` in the reply means none. To be freed with `pve_tunnel_string_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; PROTOCOL if it is no such reply, including `caps` that is not an array of
/// at most 64 strings of at most 64 characters from [a-z0-9-].
///
/// Threads: any.
///
/// # Safety
///
/// `json` is a C string, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_version_reply_parse(
    json: *const c_char,
    out: *mut *mut c_char,
) -> i32 {
    guard("pve_tunnel_version_reply_parse", || {
        Err(Failure::new(Status::Refused, "not in this build"))
    })
}

/// Decides which way the data of a migration goes. Does no I/O.
///
/// `input` is a JSON object:
///
///   migration_type      "secure" or "insecure"
///   migration_network   null, or what was asked for explicitly: a CIDR, an interface name, the ID of a configured network
///   caps                array of all capability names of the target, the unknown ones too
///   planes              what this source can do besides "websocket": of "tls", "tcp", "qemu"
///   require_encryption  true if the configuration forbids clear text
///   dial                null before a direct connection was tried; {"ok":true}, or
///                       {"ok":false,"address":"192.0.2.7","port":60000,"error":"why"} after it
///
/// `out` gets a JSON object, to be freed with `pve_tunnel_string_free`:
///
///   plane       way of RAM and live disks: "websocket", "tls", "tcp", "qemu"
///   offline     way of offline disks and volumes: "websocket", "tls", "tcp"
///   network     the migration network to use, or null
///   start       what to put into the worker's start command: {"statefile":"unix","type":"websocket"}, or
///               {"statefile":"tcp","type":"insecure"}, with "network" if one was given
///   privileges  what the user needs: [{"path":"/","privilege":"Sys.Modify","on":["source","target"]}]
///   warnings    array of sentences to show to the operator
///   reason      one sentence: why this plane
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `input` is no such object; REFUSED if what was asked for
/// cannot be had: insecure is never turned into anything else in silence. The message names the ways out.
///
/// Threads: any.
///
/// # Safety
///
/// `input` is a C string, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_plan(input: *const c_char, out: *mut *mut c_char) -> i32 {
    guard("pve_tunnel_plan", || {
        Err(Failure::new(Status::Refused, "not in this build"))
    })
}
