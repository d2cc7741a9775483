//! The versions of library and ABI.

use std::ffi::{CStr, c_char};

/// Number of the ABI that this header describes. It is also the number in the soname
/// libpve_tunnel.so.0.
pub const ABI_VERSION: u32 = 0;

const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };

/// Returns the number of the ABI of the loaded library.
///
/// A program that loads the library with dlopen compares it with `PVE_TUNNEL_ABI_VERSION`. For a
/// program that links the library, the soname has the same purpose.
///
/// Threads: any. Does not change the last message and status.
#[unsafe(no_mangle)]
pub extern "C" fn pve_tunnel_abi_version() -> u32 {
    ABI_VERSION
}

/// Returns the version of the software, such as "0.1.0". Never NULL. The text belongs to the
/// library and is valid as long as the library is loaded.
///
/// Threads: any. Does not change the last message and status.
#[unsafe(no_mangle)]
pub extern "C" fn pve_tunnel_version() -> *const c_char {
    VERSION.as_ptr()
}
