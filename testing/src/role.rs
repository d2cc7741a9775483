//! Programs of ours as processes: this test binary again, as one test that is ignored otherwise.

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

/// Starts listeners, each a process of its own. They live no longer than what is returned: a
/// listener ends with its parent, and for the kernel that is the thread which started it.
pub fn listeners() -> impl Fn(Value) -> Listener + Send + Sync + 'static {
    let (ask, asked) = mpsc::channel::<(Value, mpsc::Sender<Listener>)>();
    thread::spawn(move || {
        for (options, started) in asked {
            let mut command = command("listener_process", &options);
            let listener = Listener::in_process(command.stdout(Stdio::null()));
            // Only fails if nobody waits any more.
            let _ = started.send(listener);
        }
    });
    move |options| {
        let (started, starts) = mpsc::channel();
        ask.send((options, started)).unwrap();
        starts.recv().unwrap()
    }
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

/// A listener whose worker is a process, too. What `open` is answered with also has the pids of both,
/// and of another child of the worker's that holds the worker's end of the line for a while.
pub fn start_worker(options: Value) -> Listener {
    Listener::in_process(command("worker_process", &options).stdout(Stdio::null()))
}

/// What `worker_process` does: passes lines on between its standard input and its listener.
pub fn worker_process() {
    let Some(options) = options() else { return };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut listener = command("listener_process", &options);
    let mut listener = listener.stdin(OwnedFd::from(theirs)).spawn().unwrap();
    let held = OwnedFd::from(ours.try_clone().unwrap());
    let mut other = Command::new("sleep");
    other.arg("120").stdin(held).stderr(Stdio::null());
    let mut other = other.spawn().unwrap();

    let asked = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut asked = BufReader::new(asked);
    let mut line = BufReader::new(ours);
    let mut opened = hear(&mut line).unwrap();
    opened["listener"] = listener.id().into();
    opened["other"] = other.id().into();
    writeln!(asked.get_mut(), "{opened}").unwrap();
    while let Some(request) = hear(&mut asked) {
        writeln!(line.get_mut(), "{request}").unwrap();
        let answer = hear(&mut line).unwrap();
        writeln!(asked.get_mut(), "{answer}").unwrap();
    }
    for child in [&mut listener, &mut other] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// The next line, if there is one.
fn hear(line: &mut impl BufRead) -> Option<Value> {
    let mut text = String::new();
    line.read_line(&mut text).unwrap();
    (!text.is_empty()).then(|| serde_json::from_str(&text).unwrap())
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

/// Whether this process runs one test alone, the test `name` in the module `path` (from
/// `module_path!()`). If it does not, such a process is started, and the test passes there.
///
/// For tests that change or measure what belongs to the whole process.
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
