//! The configuration, for C.

use std::ffi::c_char;

use super::error::{Failure, Status};
use super::guard::guard;
use super::input::{self, JSON_MAX, Out};
use super::{memory, string};
use crate::configuration::{
    self, Configuration, ConfigurationError, MAX_FILE, Selection, SelectionInput,
};

/// Returns what the configuration of a node, /etc/pve/remote-migration.cfg, means for one
/// migration. Does no I/O: the caller reads the file. Its format is documented in
/// remote-migration.cfg(5).
///
/// `text` is the content of the file. NULL stands for a missing file, which has the same meaning as
/// an empty one. `input` is a JSON object. On the source node:
///
///   side                "source"
///   remote              name or address of the target, as used for the connection
///   migration_type      "secure", "insecure", or null if the call does not specify one
///   migration_network   an ID of the configuration, a CIDR, an interface name, or null if the call
///                       does not specify one
///
/// On the target node:
///
///   side                "target"
///   migration_type      "secure" or "insecure", as chosen by the source
///   migration_network   the network that the source requests: an ID of this node's configuration,
///                       a CIDR, an interface name, or null
///
/// Other members are an error. An ID has precedence over an interface of the same name. If the call
/// does not specify a network, the source uses the configured network of the remote, if there is
/// one.
///
/// `out` gets a JSON object. Free it with `pve_tunnel_string_free`. On the source node:
///
///   migration_type      "secure" or "insecure"
///   migration_network   the ID of the configured network, or the network of the call, or null
///   configured          true if a configured network is used; then type and network need no
///                       privilege
///   network             network to request from the target: a CIDR, an interface name, an ID, or
///                       null
///   source_network      network of this node's own address: a CIDR, an interface name, or null
///   require_encryption  true if the policy forbids clear text
///   public              true if clear text may go to publicly routable addresses
///   gateway             true if clear text may go through the default gateway
///   dead_peer_timeout   seconds, 1 to 3600
///   congestion          "auto", "system", "bbr" or "cubic"
///   buffer              "auto", "system", or a number of bytes
///   lanes               the most connections that carry a stream together, 1 to 16, or null for 3
///                       websockets or one direct connection
///   threads             the threads that serve them beside a process's own one, 1 to 16, or null
///                       for a quarter of the cores
///   compression         "none" or "zstd"
///   reason              why this network was selected, in one sentence
///
/// On the target node: `network` (a CIDR or an interface name of this node, or null for its own
/// address), `configured`, `require_encryption`, `public`, `congestion`, `buffer`, `threads` and
/// `reason`.
///
/// Errors: NULL_POINTER; TOO_LONG above 1 MiB; NOT_UTF8; INVALID_ARGUMENT if `input` is not such an
/// object, its remote is not a host, its network is malformed, or `text` has a mistake; REFUSED if
/// the configuration does not permit the request: the network does not allow the type, the policy
/// requires encryption, the network is configured for other remotes, or the ID is not configured.
/// Messages about `text` begin with the line, as in "line 7: unknown key 'foo' in network 'dc2'".
///
/// Threads: any.
///
/// # Safety
///
/// `text` is NULL or a C string, `input` is a C string, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_configuration_select(
    text: *const c_char,
    input: *const c_char,
    out: *mut *mut c_char,
) -> i32 {
    guard("pve_tunnel_configuration_select", || {
        let out = Out::new(out, "out")?;
        let content = if text.is_null() {
            &[]
        } else {
            // SAFETY: not NULL and so a C string, as the caller promises.
            unsafe { input::c_bytes(text, "text", MAX_FILE) }?
        };
        // SAFETY: a C string, as the caller promises.
        let call = unsafe { input::text(input, "input", JSON_MAX) }?;
        memory::check_available(content.len() + call.len())?;
        let call: SelectionInput = input::json(call, "input")?;
        let selection =
            select(content, &call).map_err(|error| Failure::from_error(status(&error), &error))?;
        let answer = string::to_c(input::to_json(&selection)?)?;
        // SAFETY: writable, as the caller promises.
        unsafe { out.write(answer.into_raw()) };
        Ok(())
    })
}

fn select(content: &[u8], call: &SelectionInput) -> Result<Selection, ConfigurationError> {
    configuration::select(&Configuration::parse(content)?, call)
}

fn status(error: &ConfigurationError) -> Status {
    match error {
        ConfigurationError::TooLong { .. } => Status::TooLong,
        ConfigurationError::NotUtf8 { .. } => Status::NotUtf8,
        ConfigurationError::Line { .. }
        | ConfigurationError::Remote { .. }
        | ConfigurationError::Network(_) => Status::InvalidArgument,
        ConfigurationError::OtherRemote { .. }
        | ConfigurationError::NotAllowed { .. }
        | ConfigurationError::EncryptionRequired { .. } => Status::Refused,
    }
}
