//! A library for `tests/c/panic.c`: the whole ABI, and one more function that panics behind the
//! same guard.
//!
//! The library that users get has no such function, so the promise that a panic becomes an error is
//! shown on this one.

// An exported name and a panic are the point of it.
#![allow(unsafe_code, clippy::panic)]

use pve_tunnel::ffi::guard::guard;

/// Panics on purpose: with `code` in the message if it is positive, else with a payload that is no
/// text.
#[unsafe(no_mangle)]
pub extern "C" fn pve_tunnel_panic_probe(code: i32) -> i32 {
    guard("pve_tunnel_panic_probe", || {
        if code > 0 {
            panic!("deliberate, code {code}");
        }
        std::panic::panic_any(code)
    })
}
