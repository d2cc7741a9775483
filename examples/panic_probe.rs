//! A library for `tests/c/panic.c`: the whole ABI, and one more function, which panics inside the
//! same guard as all others.
//!
//! The installed library has no function that panics, so the test uses this library to show that a
//! panic becomes an error.

// The function has an exported name, and panics on purpose.
#![allow(unsafe_code, clippy::panic)]

use pve_tunnel::ffi::guard::guard;

/// Panics: with `code` in the message if it is positive, else with a payload that is not text.
#[unsafe(no_mangle)]
pub extern "C" fn pve_tunnel_panic_probe(code: i32) -> i32 {
    guard("pve_tunnel_panic_probe", || {
        if code > 0 {
            panic!("deliberate, code {code}");
        }
        std::panic::panic_any(code)
    })
}
