//! Sets the soname of the shared library. A change of the ABI changes the soname.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libpve_tunnel.so.0");
}
