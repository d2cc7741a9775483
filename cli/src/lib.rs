//! The `pve-tunnel` command, except its `main`: tests and the generator of the manual pages use
//! this library, too.

pub mod activation;
mod arguments;
mod switch;

use arguments::{Cli, Command, Connect, Mask};
use clap::{CommandFactory, Parser};
use pve_tunnel::connector::{self, Options};
use pve_tunnel::websocket::Masking;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

/// The name under which Proxmox VE calls the helper that `pve-tunnel connect` stands in for.
const HELPER: &str = "proxmox-websocket-tunnel";

/// Runs what the arguments of this process request, and returns its exit code. Does not return for
/// `--help`, `--version` and wrong arguments.
#[must_use]
pub fn run() -> ExitCode {
    let mut arguments = std::env::args_os();
    if called_as_helper(arguments.next()) {
        return connect(&Connect::default());
    }
    match Cli::parse().command {
        Command::Connect(options) => connect(&options),
        Command::Enable(options) => switch::enable(&options),
        Command::Disable => switch::disable(),
        Command::Status(options) => switch::status(&options),
    }
}

/// The command's definition, from which its manual pages and completions are generated.
#[must_use]
pub fn definition() -> clap::Command {
    Cli::command()
}

fn called_as_helper(name: Option<OsString>) -> bool {
    name.as_deref()
        .map(Path::new)
        .and_then(Path::file_name)
        .is_some_and(|name| name == HELPER)
}

fn connect(arguments: &Connect) -> ExitCode {
    let mask = match arguments.mask {
        Some(Mask::Random) => Masking::Random,
        Some(Mask::Zero) | None => Masking::Zero,
    };
    let options = Options {
        mask,
        ..Options::default()
    };
    let descriptors = (
        std::io::stdin().as_fd().try_clone_to_owned(),
        std::io::stdout().as_fd().try_clone_to_owned(),
        std::io::stderr().as_fd().try_clone_to_owned(),
    );
    let (Ok(input), Ok(output), log) = descriptors else {
        // Without them there is nobody to tell.
        return ExitCode::FAILURE;
    };
    match connector::run(input, output, log.ok(), &options) {
        Ok(()) => ExitCode::SUCCESS,
        // The connector has logged why.
        Err(_) => ExitCode::FAILURE,
    }
}
