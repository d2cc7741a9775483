//! Sets the soname of the shared library. A change of the ABI changes the soname.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libpve_tunnel.so.0");

    // For the tests in `tests/` that run the command. The package in `cli/` builds it, and `make
    // test-rust` builds that package first. OUT_DIR is target/PROFILE/build/PACKAGE/out.
    let out = env::var("OUT_DIR").unwrap_or_default();
    if let Some(profile) = Path::new(&out).ancestors().nth(3) {
        let command = profile.join("pve-tunnel");
        println!(
            "cargo:rustc-env=CARGO_BIN_EXE_pve-tunnel={}",
            command.display()
        );
    }
}
