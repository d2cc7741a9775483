//! The worker's version reply and the plan, for C.

use std::ffi::c_char;

use super::error::{Failure, Status};
use super::guard::guard;
use super::input::{self, JSON_MAX, Out};
use super::string;
use crate::capability::{self, CapabilityError};
use crate::plan::{PlanError, PlanInput, plan};

/// Parses the answer of a tunnel worker to the `version` command.
///
/// `json` is the received line, such as {"success":1,"api":2,"age":0,"caps":["insecure-remote"]}. A
/// reply without `caps` has no capabilities.
///
/// `out` gets {"api":2,"age":0,"caps":["insecure-remote"],"unknown":[]}. `caps` has the
/// capabilities that this library recognizes. `unknown` has the others, which have no effect. Free it
/// with `pve_tunnel_string_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; PROTOCOL if `json` is not such a reply, or
/// if its `caps` is not an array of at most 64 strings of at most 64 characters from [a-z0-9-];
/// REFUSED if the reply is an error, or if target and library support no common version of the
/// tunnel. The message names the node to upgrade.
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
        let out = Out::new(out, "out")?;
        // SAFETY: a C string, as the caller promises.
        let text = unsafe { input::text(json, "json", JSON_MAX) }?;
        let reply = capability::parse_version(text)
            .map_err(|error| Failure::from_error(reply_status(&error), &error))?;
        let answer = string::to_c(input::to_json(&reply)?)?;
        // SAFETY: writable, as the caller promises.
        unsafe { out.write(answer.into_raw()) };
        Ok(())
    })
}

/// Decides how the data of a migration travels. Does no I/O.
///
/// `input` is a JSON object:
///
///   migration_type      "secure" (the default) or "insecure"
///   migration_network   the requested CIDR or interface name, or null; if `configured` is true, it
///                       may be the ID of the configured network
///   configured          true if a network of the configuration was selected, see
///                       `pve_tunnel_configuration_select`; then type and network need no
///                       privilege, because an administrator has configured them
///   caps                array of all capability names of the target, including unknown ones
///   tls_withheld        why the target withholds direct TLS, which its software supports, or null
///   planes              array of the planes that this source supports besides "websocket": "tls",
///                       "tcp", "qemu"
///   require_encryption  true if the configuration forbids clear text
///   dial                null before the first direct connection; after it {"ok":true}, or
///                       {"ok":false,"address":"192.0.2.7","port":60000,"error":"cause"}
///
/// A member that is left out counts as secure, null, empty or false. Other members are an error.
///
/// `out` gets a JSON object, which is freed with `pve_tunnel_string_free`:
///
///   plane       for RAM and live disks: "websocket", "tls", "tcp", "qemu"
///   offline     for offline disks and container volumes: "websocket", "tls", "tcp"
///   network     the migration network of the data, or null
///   start       parameters of the worker's start command, with "network" if one was given:
///               {"statefile":"unix","type":"websocket"} or {"statefile":"tcp","type":"insecure"}
///   privileges  privileges that the user needs:
///               [{"path":"/","privilege":"Sys.Modify","on":["source","target"]}]
///   warnings    array of sentences for the operator
///   reason      why this plane was chosen, in one sentence
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `input` is not such an
/// object; PROTOCOL if a name in `caps` is malformed; REFUSED if clear text was requested and is
/// not possible, because the type is never changed silently. The message names possible solutions.
///
/// Threads: any.
///
/// # Safety
///
/// `input` is a C string, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_plan(input: *const c_char, out: *mut *mut c_char) -> i32 {
    guard("pve_tunnel_plan", || {
        let out = Out::new(out, "out")?;
        // SAFETY: a C string, as the caller promises.
        let text = unsafe { input::text(input, "input", JSON_MAX) }?;
        let request: PlanInput = input::json(text, "input")?;
        let plan =
            plan(&request).map_err(|error| Failure::from_error(plan_status(&error), &error))?;
        let answer = string::to_c(input::to_json(&plan)?)?;
        // SAFETY: writable, as the caller promises.
        unsafe { out.write(answer.into_raw()) };
        Ok(())
    })
}

fn reply_status(error: &CapabilityError) -> Status {
    match error {
        CapabilityError::Refused { .. }
        | CapabilityError::TargetTooNew { .. }
        | CapabilityError::TargetTooOld { .. } => Status::Refused,
        _ => Status::Protocol,
    }
}

fn plan_status(error: &PlanError) -> Status {
    match error {
        PlanError::Capability(error) => reply_status(error),
        PlanError::Network(_) => Status::InvalidArgument,
        _ => Status::Refused,
    }
}
