//! The `pve-tunnel` command, except its `main`: tests and the generator of the manual pages use
//! this library, too.

pub mod activation;
mod arguments;
mod check;
mod config;
mod configuration_file;
pub mod leftovers;
mod list;
mod opened_file;
mod output;
mod program;
mod secret;
pub mod shell;
mod subcommands;
mod text;

use arguments::{Cli, Command, Connect};
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// The program that a stock Proxmox VE runs for each tunnel. A link with this name runs
/// `pve-tunnel connect`.
const HELPER: &str = "proxmox-websocket-tunnel";

/// Runs what the arguments of this process request, and returns its exit code. Does not return for
/// `--help`, `--version` and wrong arguments.
#[must_use]
pub fn run() -> ExitCode {
    let mut arguments = std::env::args_os();
    if called_as_helper(arguments.next()) {
        return subcommands::connect(&Connect::default());
    }
    match parse().command {
        Command::Check(options) => check::run(&options),
        Command::Connect(options) => subcommands::connect(&options),
        Command::Enable(options) => subcommands::enable(&options),
        Command::Disable => subcommands::disable(),
        Command::Status(options) => subcommands::status(&options),
        Command::Config(options) => subcommands::config(&options),
        Command::Leftovers(options) => subcommands::leftovers(&options),
        Command::List(options) => subcommands::list(&options),
    }
}

/// Reads the arguments of this process, or ends it with what is wrong with them, or with the help that
/// they request.
fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|mut error| {
        if let Some(option) = completed(&error) {
            error.insert(ContextKind::SuggestedArg, ContextValue::String(option));
        }
        hide_secrets(&mut error);
        let code = match error.print() {
            Err(cause) if !error.use_stderr() && cause.kind() != io::ErrorKind::BrokenPipe => {
                output::warn_unwritten(&cause);
                1
            }
            _ => error.exit_code(),
        };
        std::process::exit(code)
    })
}

/// Replaces arguments that may contain a token, for example a remote without `--to` before it.
fn hide_secrets(error: &mut clap::Error) {
    let may_be_shown = |value: &ContextValue| !secret::may_contain_secret(&value.to_string());
    let hidden: Vec<ContextKind> = error
        .context()
        .filter(|(_, value)| !may_be_shown(value))
        .map(|(kind, _)| kind)
        .collect();
    for kind in hidden {
        error.insert(kind, ContextValue::String("[not shown]".to_owned()));
    }
}

/// The option that begins with the unknown one. clap suggests the most similar one: `--help` for
/// `--helper`.
fn completed(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let command = Cli::command();
    let subcommand = command.find_subcommand(std::env::args_os().nth(1)?)?;
    let options = subcommand.get_arguments().filter_map(clap::Arg::get_long);
    options
        .map(|option| format!("--{option}"))
        .find(|option| option.starts_with(given.as_str()))
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
