//! `enable`, `disable` and `status`: what the library answers, for people and programs.

use crate::activation::{ActivationError, Node, Report, Scope};
use crate::arguments::{Enable, Status};
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

pub(crate) fn enable(arguments: &Enable) -> ExitCode {
    let scope = match arguments.helper_only {
        true => Scope::HelperOnly,
        false => Scope::Modules,
    };
    told(Node::this_machine().enable(scope))
}

pub(crate) fn disable() -> ExitCode {
    told(Node::this_machine().disable())
}

pub(crate) fn status(arguments: &Status) -> ExitCode {
    let status = match Node::this_machine().status() {
        Ok(status) => status,
        Err(error) => return failed(error),
    };
    let written = match arguments.json {
        true => serde_json::to_string_pretty(&status)
            .map_err(io::Error::from)
            .and_then(|json| say(format_args!("{json}\n"))),
        false => say(&status),
    };
    match written {
        Err(error) => failed(format_args!("cannot write to standard output: {error}")),
        Ok(()) if status.problems.is_empty() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
    }
}

fn told(done: Result<Report, ActivationError>) -> ExitCode {
    let report = match done {
        Ok(report) => report,
        Err(error) => return failed(error),
    };
    if let Some(Err(error)) = &report.reload {
        warn(format_args!(
            "{error}. Everything else is done; run 'systemctl reload pvedaemon'"
        ));
    }
    if let Err(error) = say(&report) {
        warn(format_args!(
            "it is done, but cannot be told on standard output: {error}"
        ));
    }
    ExitCode::SUCCESS
}

fn failed(error: impl Display) -> ExitCode {
    warn(error);
    ExitCode::FAILURE
}

fn say(text: impl Display) -> io::Result<()> {
    let mut output = io::stdout().lock();
    write!(output, "{text}")?;
    output.flush()
}

fn warn(text: impl Display) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "pve-tunnel: {text}");
}
