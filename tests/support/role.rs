//! Programs of ours as processes: this test binary again, as one test that is ignored otherwise.

use super::listener::Listener;
use pve_tunnel::{connector, listener};
use serde_json::Value;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

/// Where the options are, as JSON; whoever runs every ignored test has none.
const OPTIONS: &str = "ROLE_OPTIONS";

/// The command for a role.
///
/// A library's signals are blocked in every thread of a program that has one thread only. This one
/// has two, so it is started with them blocked.
pub fn command(role: &str, options: &Value) -> Command {
    let mut command = Command::new("env");
    command
        .arg("--block-signal=HUP,INT,TERM,ALRM")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            role,
            "--test-threads=1",
            "--nocapture",
        ])
        .env(OPTIONS, options.to_string());
    command
}

/// The role's options, if this process plays one.
pub fn options() -> Option<Value> {
    let text = std::env::var(OPTIONS).ok()?;
    Some(serde_json::from_str(&text).unwrap())
}

/// A listener in a process of its own.
pub fn start_listener(options: Value) -> Listener {
    Listener::in_process(command("listener_process", &options).stdout(Stdio::null()))
}

/// What `listener_process` does: serves its standard input, which is the worker's line.
pub fn listener_process() {
    let Some(options) = options() else { return };
    let options = serde_json::from_value(options).unwrap();
    let control = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let log = io::stderr().as_fd().try_clone_to_owned().unwrap();
    // It has said why, if it failed.
    let _ = listener::run(control, Some(log), &options);
}

/// The command for a connector with these options. The test harness writes to standard output, so
/// what is piped there becomes descriptor 3.
pub fn connector_command(options: &Value) -> Command {
    let role = command("connector_process", options);
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$@\" 3>&1 >/dev/null", "sh"])
        .arg(role.get_program())
        .args(role.get_args());
    for (name, value) in role.get_envs() {
        command.env(name, value.unwrap());
    }
    command
}

/// What `connector_process` does.
pub fn connector_process() {
    let Some(options) = options() else { return };
    let options = serde_json::from_value(options).unwrap();
    let input = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let output: OwnedFd = File::options()
        .write(true)
        .open("/proc/self/fd/3")
        .unwrap()
        .into();
    let log = io::stderr().as_fd().try_clone_to_owned().unwrap();
    connector::run(input, output, Some(log), &options).unwrap();
}
