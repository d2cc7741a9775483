//! Certificate fingerprints for C.

use std::ffi::c_char;

use super::error::{Failure, Status};
use super::guard::guard;
use super::input::{self, NAME_MAX, Out};
use super::string;
use crate::tls::Fingerprint;

/// Converts the SHA-256 fingerprint of a certificate to the format of Proxmox VE.
///
/// `text` has hexadecimal digits in upper or lower case, with or without colons. `canonical` gets
/// 32 upper-case hexadecimal pairs with colons between them (95 characters). Free it with
/// `pve_tunnel_string_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 4096 bytes; INVALID_ARGUMENT if `text` is not a
/// SHA-256 fingerprint.
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
            .map_err(|error| Failure::from_error(Status::InvalidArgument, &error))?;
        let answer = string::to_c(fingerprint.to_string())?;
        // SAFETY: writable, as the caller promises.
        unsafe { canonical.write(answer.into_raw()) };
        Ok(())
    })
}
