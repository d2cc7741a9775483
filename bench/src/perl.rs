//! Perl with the module PVE::Tunnel::Native of this source tree.

use crate::project::path;
use std::process::Command;

/// A command that starts Perl with the module in its search path. Fails if the module is not built.
pub fn command() -> Result<Command, String> {
    let blib = path("perl/blib");
    if !blib.join("arch/auto/PVE/Tunnel/Native/Native.so").exists() {
        return Err("PVE::Tunnel::Native is not built: run make perl".to_owned());
    }
    let mut command = Command::new("perl");
    for part in ["lib", "arch"] {
        command.arg("-I").arg(blib.join(part));
    }
    Ok(command)
}
