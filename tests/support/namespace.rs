//! Network namespaces of a test's own.
//!
//! Needs the right to make one (root); says that it was skipped otherwise.
#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// What is skipped goes straight to stderr: the test harness keeps what the print macros write.
#![allow(clippy::explicit_write)]
// For unshare, which has no safe interface.
#![allow(unsafe_code)]

use std::io::{self, Write};
use std::process::Command;
use std::thread;

/// Runs the test in a network namespace that nobody else has, and which ends with it. A thread has
/// one of its own if it asks for it; the programs it starts inherit it.
pub fn within(name: &str, test: impl FnOnce() + Send + 'static) {
    let inside = thread::spawn(|| {
        if let Err(error) = unshare() {
            return Some(error);
        }
        run("ip link set lo up");
        test();
        None
    });
    match inside.join() {
        Ok(None) => {}
        Ok(Some(error)) => skipped(name, "all of it: cannot make a network namespace", &error),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Gives this thread a network namespace of its own, which ends with it.
pub fn unshare() -> io::Result<()> {
    // SAFETY: changes nothing but the network namespace of this thread.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn skipped(name: &str, what: &str, why: &io::Error) {
    writeln!(io::stderr(), "{name}: skipped {what}: {why}").unwrap();
}

pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
