//! The worker's version reply and the plan, for C.

use std::ffi::c_char;

use super::error::{Failure, Status};
use super::guard::guard;
use super::input::{self, JSON_MAX, Out};
use super::string;
use crate::capability::{self, CapabilityError};
use crate::plan::{PlanError, PlanInput, plan};

/// Reads the answer of a tunnel worker to the `version` command.
///
/// `json` is the line as it came, such as {"success":1,"api":2,"age":0,"caps":["insecure-remote"]}.
/// `out` gets {"api":2,"age":0,"caps":["insecure-remote"],"unknown":[]}: `caps` has the
/// capabilities this library knows, `unknown` those it does not, which change nothing. No `caps` in
/// the reply means none. To be freed with `pve_tunnel_string_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; PROTOCOL if it is no such reply, including
/// `caps` that is not an array of at most 64 strings of at most 64 characters from [a-z0-9-];
/// REFUSED if the reply is an error, or if the target speaks no version of the tunnel that this
/// library speaks. The message says which node to upgrade.
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
            .map_err(|error| Failure::from_room(reply_status(&error), &error))?;
        let answer = string::to_c(input::to_json(&reply)?)?;
        // SAFETY: writable, as the caller promises.
        unsafe { out.write(answer.into_raw()) };
        Ok(())
    })
}

/// Decides which way the data of a migration goes. Does no I/O.
///
/// `input` is a JSON object:
///
///   migration_type      "secure" (the default) or "insecure"
///   migration_network   null, or what was asked for explicitly: a CIDR or an interface name; where
///                       `configured` is true, the ID of the configured network is as good
///   configured          true if a network of the configuration was selected, see
///                       `pve_tunnel_configuration_select`: then no privilege is needed for type and
///                       network, the administrator has decided them already
///   caps                array of all capability names of the target, the unknown ones too
///   planes              what this source can do besides "websocket": of "tls", "tcp", "qemu"
///   require_encryption  true if the configuration forbids clear text
///   dial                null before a direct connection was tried; after it {"ok":true}, or
///                       {"ok":false,"address":"192.0.2.7","port":60000,"error":"why"}
///
/// What is left out counts as secure, null, empty or false. Other members are an error.
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
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `input` is no such
/// object; PROTOCOL if a name in `caps` is malformed; REFUSED if what was asked for cannot be had:
/// insecure is never turned into anything else in silence. The message names the ways out.
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
            plan(&request).map_err(|error| Failure::from_room(plan_status(&error), &error))?;
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
