//! The configuration, for C.

use std::ffi::c_char;

use super::error::{Failure, Status};
use super::guard::guard;
use super::input::{self, JSON_MAX, Out};
use super::string;
use crate::configuration::{
    self, Configuration, ConfigurationError, MAX_FILE, Selection, SelectionInput,
};

/// Says what the configuration of a node, /etc/pve/remote-migration.cfg, means for one migration.
/// Does no I/O: the caller reads the file. remote-migration.cfg(5) says what may stand in it.
///
/// `text` is its content, or NULL if there is no such file, which is the same as an empty one.
/// `input` is a JSON object, on the source node:
///
///   side                "source"
///   remote              name or address of the target, as it is connected to
///   migration_type      "secure", "insecure", or null if the call does not say
///   migration_network   an ID of the configuration, a CIDR, an interface name, or null if the call
///                       does not say
///
/// and on the target node:
///
///   side                "target"
///   migration_type      "secure" or "insecure": what the source will do
///   migration_network   what the source asks for: an ID of this node's configuration, a CIDR, an
///                       interface name, or null
///
/// Other members are an error. An ID wins over an interface of the same name. Without a network,
/// the source uses the configured network that is for the remote, if there is one.
///
/// `out` gets a JSON object, to be freed with `pve_tunnel_string_free`. On the source:
///
///   migration_type      "secure" or "insecure"
///   migration_network   the ID of the configured network, or what the call gave, or null
///   configured          true if a configured network is used: then no privilege is needed for
///                       type and network
///   network             what to ask the target for: a CIDR, an interface name or an ID; or null
///   source_network      where this node's end must lie: a CIDR or an interface name; or null
///   require_encryption  true if the policy forbids clear text
///   public              true if clear text may go to publicly routable addresses
///   gateway             true if clear text may go through the default gateway
///   dead_peer_timeout   seconds, 1 to 3600
///   reason              one sentence: where this comes from
///
/// On the target: `network` (a CIDR or an interface name of this node, or null for its own
/// address), `configured`, `require_encryption`, `public` and `reason`.
///
/// Errors: NULL_POINTER; TOO_LONG above 1 MiB; NOT_UTF8; INVALID_ARGUMENT if `input` is no such
/// object, its remote no host or its network malformed, or if there is a mistake in `text`; REFUSED
/// if the configuration does not permit what was asked for: a type that the network does not allow,
/// clear text where the policy requires encryption, a network that is for other remotes, an ID that
/// is none. Messages about `text` begin with the line, as in "line 7: unknown key 'foo' in network
/// 'dc2'".
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
        let call: SelectionInput = input::json(call, "input")?;
        let selection =
            select(content, &call).map_err(|error| Failure::from_room(status(&error), &error))?;
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
        ConfigurationError::UnknownId { .. }
        | ConfigurationError::OtherRemote { .. }
        | ConfigurationError::NotAllowed { .. }
        | ConfigurationError::EncryptionRequired { .. } => Status::Refused,
    }
}
