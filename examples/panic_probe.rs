//! A library for `tests/c/panic.c`: the whole ABI, and one more function that panics behind the same guard.
//!
//! The library that users get has no such function, so the promise that a panic becomes an error is shown on this one.

// An exported name is the point of it.
#![allow(unsafe_code)]

use pve_tunnel::ffi::guard::guard;

/// Panics on purpose, with `code` in the message if it is positive, with a payload that is no text if it is not.
#[unsafe(no_mangle)]
pub extern "C" fn pve_tunnel_panic_probe(code: i32) -> i32 {
    guard("pve_tunnel_panic_probe", || {
        if code > 0 {
            // Goes through an index, as real defects do, and not through the panic! that the lints forbid here.
            let nothing: &[i32] = &[];
            let _ = nothing[code.unsigned_abs() as usize];
        }
        std::panic::panic_any(code)
    })
}
