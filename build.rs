//! Gives the shared library its soname, which changes when the ABI does.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libpve_tunnel.so.0");
}
