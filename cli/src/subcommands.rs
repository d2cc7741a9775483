//! The subcommands: each runs its function of a library and prints the result.

use crate::activation::{ActivationError, Node, Report, Scope};
use crate::arguments::{Config, Connect, Enable, Leftovers, List, Mask, Status};
use crate::config::ConfigReport;
use crate::leftovers;
use crate::list::Listing;
use crate::output::{print, print_json, warn, warn_unwritten};
use crate::secret::may_contain_secret;
use nix::unistd::{Pid, setpgid};
use pve_tunnel::connector::{self, Options};
use pve_tunnel::websocket::Masking;
use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

/// The exit code of `leftovers` if a part of the check could not be done.
const NOT_CHECKED: u8 = 2;

/// The exit code for wrong arguments, which clap uses, too.
const WRONG_ARGUMENTS: u8 = 2;

pub(crate) fn connect(arguments: &Connect) -> ExitCode {
    // Proxmox VE stops a task by a signal to its process group, and the task then cleans up through
    // this connector. A person at a terminal ends it with Ctrl-C.
    if io::stdin().is_terminal() {
        warn(
            "waiting for commands on standard input, one JSON object per line; Ctrl-D ends it. See pve-tunnel-connect(1)",
        );
    } else {
        // Fails only for the leader of a session, whose group is its own already.
        let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    }
    let mask = match arguments.mask {
        Some(Mask::Random) => Masking::Random,
        Some(Mask::Zero) | None => Masking::Zero,
    };
    let options = Options {
        mask,
        ..Options::default()
    };
    let descriptors = (
        io::stdin().as_fd().try_clone_to_owned(),
        io::stdout().as_fd().try_clone_to_owned(),
        io::stderr().as_fd().try_clone_to_owned(),
    );
    let (Ok(input), Ok(output), log) = descriptors else {
        // Without standard input and output, no command can be received or answered.
        return ExitCode::FAILURE;
    };
    match connector::run(input, output, log.ok(), &options) {
        Ok(()) => ExitCode::SUCCESS,
        // The connector has logged why.
        Err(_) => ExitCode::FAILURE,
    }
}

pub(crate) fn enable(arguments: &Enable) -> ExitCode {
    let scope = match arguments.helper_only {
        true => Scope::HelperOnly,
        false => Scope::Modules,
    };
    print_report(Node::this_machine().enable(scope))
}

pub(crate) fn disable() -> ExitCode {
    print_report(Node::this_machine().disable())
}

pub(crate) fn status(arguments: &Status) -> ExitCode {
    let status = match Node::this_machine().status() {
        Ok(status) => status,
        Err(error) => return fail(error),
    };
    let printed = match arguments.json {
        true => print_json(&status),
        false => print(&status),
    };
    finish(printed, status.problems.is_empty())
}

pub(crate) fn config(arguments: &Config) -> ExitCode {
    let is_endpoint = |to: &str| to.contains('=') || may_contain_secret(to);
    if arguments.to.as_deref().is_some_and(is_endpoint) {
        // Not quoted, because it can contain a token.
        warn("--to: expected the ID of a network, or a host without token");
        return ExitCode::from(WRONG_ARGUMENTS);
    }
    let report = match ConfigReport::of(arguments.file.as_deref(), arguments.to.as_deref()) {
        Ok(report) => report,
        Err(error) => {
            warn(format_args!("--to: {error}"));
            return ExitCode::from(WRONG_ARGUMENTS);
        }
    };
    let printed = match (arguments.json, report.error()) {
        (true, _) => print_json(&report),
        (false, Some(error)) => return fail(error),
        (false, None) => print(&report),
    };
    finish(printed, report.is_good())
}

pub(crate) fn leftovers(arguments: &Leftovers) -> ExitCode {
    let found = match leftovers::collect(Path::new("/")) {
        Ok(facts) => leftovers::decide(&facts),
        Err(error) => {
            warn(error);
            return ExitCode::from(NOT_CHECKED);
        }
    };
    let printed = match arguments.json {
        true => print_json(&found),
        false => print(&found),
    };
    match printed {
        Err(error) => {
            warn_unwritten(&error);
            ExitCode::from(NOT_CHECKED)
        }
        Ok(()) if !found.unchecked.is_empty() => ExitCode::from(NOT_CHECKED),
        Ok(()) if found.leftovers.is_empty() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
    }
}

pub(crate) fn list(arguments: &List) -> ExitCode {
    let listing = match Listing::of_this_node() {
        Ok(listing) => listing,
        Err(error) => return fail(error),
    };
    let printed = match arguments.json {
        true => print_json(&listing),
        false => print(&listing),
    };
    finish(printed, true)
}

/// The exit code of a report that was printed, or could not be.
fn finish(printed: io::Result<()>, is_good: bool) -> ExitCode {
    match printed {
        Err(error) => {
            warn_unwritten(&error);
            ExitCode::FAILURE
        }
        Ok(()) if is_good => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
    }
}

fn print_report(result: Result<Report, ActivationError>) -> ExitCode {
    let report = match result {
        Ok(report) => report,
        Err(error) => return fail(error),
    };
    if let Some(Err(error)) = &report.reload {
        warn(format_args!(
            "{error}. Everything else is done; run 'systemctl reload pvedaemon'"
        ));
    }
    if let Err(error) = print(&report) {
        warn(format_args!(
            "done, but the result cannot be written to standard output: {error}"
        ));
    }
    ExitCode::SUCCESS
}

fn fail(error: impl Display) -> ExitCode {
    warn(error);
    ExitCode::FAILURE
}
