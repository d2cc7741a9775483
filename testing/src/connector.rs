//! The connector as a process.

use crate::target::Target;
use pve_tunnel::tls::Fingerprint;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;
use tempfile::TempDir;

/// The API token of all tests. It must not appear in a log or an error message.
pub const TOKEN: &str = "PVEAPIToken=root@pam!test=4d1bd3f8-5e3b-4f0e-9d7a-secret";

pub struct Connector {
    pub child: Child,
    pub directory: TempDir,
    /// So many lanes, neither more nor fewer, for the streams of forwards that are requested from now on; if
    /// absent, as negotiated.
    pub lanes_of_forwards: Option<u16>,
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
    log: Option<JoinHandle<String>>,
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
}

/// A command that starts with the default action for each signal. Under `nohup`, or in the background of
/// a script, this process ignores some of them, and a program that it starts would inherit that.
pub fn with_default_signals(program: &Path) -> Command {
    let mut command = Command::new("env");
    command
        .args(["--default-signal=HUP,INT,QUIT,TERM", "--"])
        .arg(program);
    command
}

impl Connector {
    pub fn start() -> Self {
        Self::start_with(&["connect"])
    }

    pub fn start_with(arguments: &[&str]) -> Self {
        Self::spawn(with_default_signals(&executable()).args(arguments))
    }

    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let lines: Arc<Mutex<Vec<(Instant, String)>>> = Arc::default();
        let seen = lines.clone();
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            for line in BufReader::new(stderr).lines() {
                let line = line.unwrap();
                text.push_str(&line);
                text.push('\n');
                seen.lock().unwrap().push((Instant::now(), line));
            }
            text
        });
        Self {
            input: child.stdin.take(),
            output: child.stdout.take().map(BufReader::new),
            log: Some(log),
            lines,
            child,
            directory: tempfile::tempdir().unwrap(),
            lanes_of_forwards: None,
        }
    }

    /// Starts a connector, connects it to `target` and requests the version.
    pub fn connected(target: &Target) -> Self {
        let mut connector = Self::start();
        connector.begin(target);
        connector
    }

    /// Connects to `target` and requests the version.
    pub fn begin(&mut self, target: &Target) {
        self.connect(target);
        let version = self.request(&json!({ "cmd": "version" }));
        assert_eq!(version["api"], 2, "{version}");
    }

    pub fn connect(&mut self, target: &Target) {
        self.connect_to(
            &target.url("ticket=CONTROL&socket=%2Frun%2Fmtunnel"),
            Some(target.fingerprint),
        );
    }

    pub fn connect_to(&mut self, url: &str, fingerprint: Option<Fingerprint>) {
        let data = target_data(url, fingerprint);
        self.send(&json!({ "control": true, "cmd": "connect", "data": data }));
    }

    /// Forwards a new local path to `remote`. Returns the local path.
    pub fn forward(&mut self, target: &Target, remote: &str) -> PathBuf {
        let number = std::fs::read_dir(self.directory.path()).unwrap().count();
        self.forward_at(target, &format!("{number}.sock"), remote)
    }

    /// The same with this name of the local socket.
    pub fn forward_at(&mut self, target: &Target, name: &str, remote: &str) -> PathBuf {
        let local = self.directory.path().join(name);
        let mut command = forward_command(target, &local, remote);
        if let Some(lanes) = self.lanes_of_forwards {
            command["data"]["lanes"] = lanes.into();
            command["data"]["first_lanes"] = lanes.into();
        }
        let answer = self.request(&command);
        assert_eq!(answer["success"], true, "{answer}");
        local
    }

    /// Forwards a new local path to `remote` and connects to it.
    pub fn open(&mut self, target: &Target, remote: &str) -> UnixStream {
        UnixStream::connect(self.forward(target, remote)).unwrap()
    }

    pub fn send(&mut self, line: &Value) {
        self.send_raw(&line.to_string());
    }

    pub fn send_raw(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{line}\n").as_bytes()).unwrap();
        input.flush().unwrap();
    }

    pub fn receive_raw(&mut self) -> String {
        let mut line = String::new();
        let output = self.output.as_mut().unwrap();
        output.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    pub fn receive(&mut self) -> Value {
        let line = self.receive_raw();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    pub fn request(&mut self, line: &Value) -> Value {
        self.send(line);
        self.receive()
    }

    /// The lines logged so far, each with the time at which it was read.
    pub fn logged(&self) -> Vec<(Instant, String)> {
        self.lines.lock().unwrap().clone()
    }

    /// The highest resident memory so far, in KiB.
    pub fn peak_memory(&self) -> u64 {
        crate::peak_memory(self.child.id())
    }

    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Closes this end of its standard output. Its further answers have no reader.
    pub fn close_output(&mut self) {
        self.output = None;
    }

    /// Ends the connector by closing its standard input, and waits for it.
    pub fn finish(mut self) -> Finished {
        self.close_input();
        self.wait()
    }

    /// Waits until the connector has ended without a request.
    pub fn wait(mut self) -> Finished {
        let mut rest = String::new();
        if let Some(output) = &mut self.output {
            output.read_to_string(&mut rest).unwrap();
        }
        let status = self.child.wait().unwrap();
        let log = self.log.take().unwrap().join().unwrap();
        assert!(
            !log.contains("secret") && !log.contains("TICKET"),
            "a secret was logged: {log}"
        );
        let files = std::fs::read_dir(self.directory.path()).unwrap().count();
        Finished {
            status,
            log,
            rest,
            files,
        }
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of the command `pve-tunnel` that cargo built in the same profile as this executable.
///
/// The command is in `target/<profile>`. Executables of tests and benchmarks are in the same
/// directory or in `deps` below it. Cargo builds a package's binaries before it runs the package's
/// integration tests.
pub fn executable() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let found = this
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("pve-tunnel"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("pve-tunnel is missing in the directory of {this:?} and in its parent")
    })
}

/// A connector that has ended.
pub struct Finished {
    pub status: ExitStatus,
    /// The text of standard error.
    pub log: String,
    /// The part of standard output that no [`Connector::receive`] returned.
    pub rest: String,
    /// The number of entries left in the connector's directory.
    pub files: usize,
}

pub fn forward_command(target: &Target, local: &std::path::Path, remote: &str) -> Value {
    let encoded = percent_encoding::utf8_percent_encode(remote, percent_encoding::NON_ALPHANUMERIC);
    json!({ "control": true, "cmd": "forward", "data": {
        "url": target.url(&format!("socket={encoded}&")),
        "headers": [["Authorization", TOKEN]],
        "fingerprint": target.fingerprint.to_string(),
        "unix": local,
        "ticket": { "path": remote },
    }})
}

/// How to open websockets with this URL.
pub fn target_data(url: &str, fingerprint: Option<Fingerprint>) -> Value {
    let mut data = json!({ "url": url, "headers": [["Authorization", TOKEN]] });
    if let Some(fingerprint) = fingerprint {
        data["fingerprint"] = fingerprint.to_string().into();
    }
    data
}
