//! The `pve-tunnel` command.
fn main() {}
