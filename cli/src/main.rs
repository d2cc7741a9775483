//! The `pve-tunnel` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    pve_tunnel_cli::run()
}
