//! Connectors, listeners and workers as processes. Each is the same test binary, which runs one
//! test that is ignored otherwise.

use crate::listener::Listener;
use pve_tunnel::{connector, listener};
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

/// The environment variable with the options as JSON. It is not set if a user runs all ignored
/// tests.
const OPTIONS: &str = "ROLE_OPTIONS";

/// The command for a role.
///
/// The library blocks the signals that end a process in the thread that calls it, and reads them
/// from a descriptor. That is enough in a program with a single thread. A test binary has two
/// threads, so it starts with these signals blocked.
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

/// The role's options, if this process has a role.
pub fn options() -> Option<Value> {
    let text = std::env::var(OPTIONS).ok()?;
    Some(serde_json::from_str(&text).unwrap())
}

/// Returns a function that starts listeners, each in a process of its own. The listeners end when
/// the function is dropped: a listener ends with its parent, and for the kernel the parent is the
/// thread that started it.
pub fn listeners() -> impl Fn(Value) -> Listener + Send + Sync + 'static {
    let (sender, requests) = mpsc::channel::<(Value, mpsc::Sender<Listener>)>();
    thread::spawn(move || {
        for (options, started) in requests {
            let mut command = command("listener_process", &options);
            let listener = Listener::in_process(command.stdout(Stdio::null()));
            // Fails only if the caller no longer waits.
            let _ = started.send(listener);
        }
    });
    move |options| {
        let (started, starts) = mpsc::channel();
        sender.send((options, started)).unwrap();
        starts.recv().unwrap()
    }
}

/// The role `listener_process`: a listener whose control socket is its standard input.
pub fn listener_process() {
    let Some(options) = options() else { return };
    let options = serde_json::from_value(options).unwrap();
    let control = io::stdin().as_fd().try_clone_to_owned().unwrap();
    let log = io::stderr().as_fd().try_clone_to_owned().unwrap();
    // If it failed, it has already reported the reason on the control socket.
    let _ = listener::run(control, Some(log), &options);
}

/// Starts a worker in a process, which starts a listener in another process. The answer to `open`
/// has two additional members: `listener`, the listener's process ID, and `other`, the process ID
/// of another child of the worker, which keeps the worker's end of the control socket open.
pub fn start_worker(options: Value) -> Listener {
    Listener::in_process(command("worker_process", &options).stdout(Stdio::null()))
}

/// The role `worker_process`: passes lines between its standard input and its listener.
pub fn worker_process() {
    let Some(options) = options() else { return };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut listener = command("listener_process", &options);
    let mut listener = listener.stdin(OwnedFd::from(theirs)).spawn().unwrap();
    let held = OwnedFd::from(ours.try_clone().unwrap());
    let mut other = Command::new("sleep");
    other.arg("120").stdin(held).stderr(Stdio::null());
    let mut other = other.spawn().unwrap();

    let input = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut input = BufReader::new(input);
    let mut control = BufReader::new(ours);
    let mut opened = receive(&mut control).unwrap();
    opened["listener"] = listener.id().into();
    opened["other"] = other.id().into();
    writeln!(input.get_mut(), "{opened}").unwrap();
    while let Some(request) = receive(&mut input) {
        writeln!(control.get_mut(), "{request}").unwrap();
        let answer = receive(&mut control).unwrap();
        writeln!(input.get_mut(), "{answer}").unwrap();
    }
    for child in [&mut listener, &mut other] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// The next line, or none at the end of the stream.
fn receive(stream: &mut impl BufRead) -> Option<Value> {
    let mut text = String::new();
    stream.read_line(&mut text).unwrap();
    (!text.is_empty()).then(|| serde_json::from_str(&text).unwrap())
}

/// The command for a connector with these options. The test harness writes to standard output, so
/// the pipe of standard output becomes descriptor 3.
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

/// The role `connector_process`: a connector that reads standard input and writes descriptor 3.
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

/// Returns true if this process runs only the test `name` of the module `path` (from
/// `module_path!()`). Otherwise runs the test in such a process, requires that it passes, and
/// returns false.
///
/// For tests that change or measure properties of the whole process.
pub fn in_own_process(path: &str, name: &str) -> bool {
    const ALONE: &str = "TEST_IS_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    // The harness names a test without its crate.
    let (_, module) = path.split_once("::").unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::{name}")])
        .env(ALONE, "yes")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{output}");
    assert!(output.contains("1 passed"), "{output}");
    false
}
