//! `pve-tunnel connect` at a terminal.

use std::fs;
use std::process::{Command, Stdio};
use testing::connector::executable;

#[test]
fn it_reports_at_a_terminal_what_it_waits_for() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let (program, path) = (executable(), log.display());
    // script(1) gives its command a terminal as standard input, and passes the end of its own on.
    let command = format!("'{}' connect 2>'{path}'", program.display());
    let status = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        "pve-tunnel: waiting for commands on standard input, one JSON object per line; Ctrl-D ends \
         it. See pve-tunnel-connect(1)\n"
    );
}

#[test]
fn it_reports_nothing_to_a_program() {
    let output = Command::new(executable())
        .arg("connect")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!((output.stdout.len(), output.stderr.len()), (0, 0));
}
