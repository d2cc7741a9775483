//! Certificate fingerprints for C.

use std::ffi::c_char;

use super::error::{Failure, Status};
use super::guard::guard;
use super::input::{self, NAME_MAX, Out};
use super::string;
use crate::tls::Fingerprint;

/// Reads a certificate's SHA-256 fingerprint, in any case and with or without colons, and writes it
/// the way Proxmox VE does: 32 upper-case hexadecimal pairs with colons between them (95
/// characters).
///
/// `canonical` gets the text, to be freed with `pve_tunnel_string_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 4096 bytes; INVALID_ARGUMENT if it is no such
/// fingerprint.
///
/// Threads: any.
///
/// # Safety
///
/// `text` is a C string, `canonical` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_fingerprint_parse(
    text: *const c_char,
    canonical: *mut *mut c_char,
) -> i32 {
    guard("pve_tunnel_fingerprint_parse", || {
        let canonical = Out::new(canonical, "canonical")?;
        // SAFETY: a C string, as the caller promises.
        let text = unsafe { input::text(text, "text", NAME_MAX) }?;
        let fingerprint: Fingerprint = text
            .parse()
            .map_err(|error| Failure::from_room(Status::InvalidArgument, &error))?;
        let answer = string::to_c(fingerprint.to_string())?;
        // SAFETY: writable, as the caller promises.
        unsafe { canonical.write(answer.into_raw()) };
        Ok(())
    })
}
