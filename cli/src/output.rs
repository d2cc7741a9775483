//! Writing to standard output and standard error.

use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};

pub(crate) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_string_pretty(value)?;
    print(format_args!("{json}\n"))
}

/// A reader that has ended, such as `head`, is not an error: it does not require the rest.
pub(crate) fn print(text: impl Display) -> io::Result<()> {
    let mut output = io::stdout().lock();
    let printed = write!(output, "{text}").and_then(|()| output.flush());
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Reports that [`print`] or [`print_json`] failed.
pub(crate) fn warn_unwritten(error: &io::Error) {
    warn(format_args!("cannot write to standard output: {error}"));
}

/// Reports on standard error.
pub(crate) fn warn(text: impl Display) {
    // Ignored if standard error is closed: there is no other place to report it.
    let _ = writeln!(io::stderr().lock(), "pve-tunnel: {text}");
}
