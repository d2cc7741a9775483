//! Which library this is.

use std::ffi::{CStr, c_char};

/// Number of the ABI that this header describes, and of the soname: libpve_tunnel.so.0.
pub const ABI_VERSION: u32 = 0;

const VERSION: &CStr =
    match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };

/// Number of the ABI of the library that is loaded.
///
/// Who loads it with dlopen compares this with `PVE_TUNNEL_ABI_VERSION` of the header; who links
/// gets the same check from the soname.
///
/// Threads: any. Leaves the last message and status as they are.
#[unsafe(no_mangle)]
pub extern "C" fn pve_tunnel_abi_version() -> u32 {
    ABI_VERSION
}

/// Version of the software, such as "0.1.0". Belongs to the library, valid as long as it is loaded,
/// never NULL.
///
/// Threads: any. Leaves the last message and status as they are.
#[unsafe(no_mangle)]
pub extern "C" fn pve_tunnel_version() -> *const c_char {
    VERSION.as_ptr()
}
