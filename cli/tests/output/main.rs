//! What is printed must arrive: each subcommand that prints reports an output that cannot be written, and
//! does not succeed. A reader that does not need the rest is no error.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::process::{Command, Output, Stdio};

/// Each report that ends on any machine, with and without `--json`. `leftovers` has a test on a node,
/// t/57-leftovers.t. The port of `check` is reserved, so nothing listens there.
const REPORTS: [&[&str]; 4] = [
    &["check", "--to", "host=127.0.0.1,port=1"],
    &["config"],
    &["list"],
    &["status"],
];

const TEXTS: [&[&str]; 5] = [
    &["--help"],
    &["--version"],
    &["-h"],
    &["help", "check"],
    &["check", "--help"],
];

fn run(arguments: &[&str], stdout: Stdio) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pve-tunnel"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .output()
        .unwrap()
}

fn every_report() -> Vec<Vec<&'static str>> {
    let json = REPORTS.map(|arguments| [arguments, &["--json"]].concat());
    let text = REPORTS.into_iter().chain(TEXTS).map(<[_]>::to_vec);
    text.chain(json).collect()
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    for arguments in every_report() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = run(&arguments, full.into());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains("pve-tunnel: cannot write to standard output: No space left on device"),
            "{arguments:?}: {error}"
        );
        let code = output.status.code().unwrap();
        assert!([1, 2].contains(&code), "{arguments:?}: {code}");
    }
}

#[test]
fn a_reader_that_has_ended_is_no_error() {
    for arguments in every_report() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        let into_pipe = run(&arguments, writer.into());
        let into_nothing = run(&arguments, Stdio::null());
        assert_eq!(into_pipe.status, into_nothing.status, "{arguments:?}");
        let error = String::from_utf8(into_pipe.stderr).unwrap();
        assert!(!error.contains("cannot write"), "{arguments:?}: {error}");
    }
}
