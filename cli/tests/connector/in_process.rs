//! A connector in a thread of the test, with options that the command does not have.

use pve_tunnel::connector::{self, ConnectorError, Options};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use tempfile::TempDir;
use testing::connector::forward_command;
use testing::target::Target;

/// A connected connector.
pub(crate) struct InProcess {
    input: UnixStream,
    output: BufReader<UnixStream>,
    log: JoinHandle<String>,
    thread: JoinHandle<Result<(), ConnectorError>>,
    directory: TempDir,
}

impl InProcess {
    /// Starts it and connects it to the target.
    pub(crate) fn connected(target: &Target, options: Options) -> Self {
        let (input, theirs) = UnixStream::pair().unwrap();
        let (from_log, log) = nix::unistd::pipe().unwrap();
        let log_reader = thread::spawn(move || {
            let mut text = String::new();
            File::from(from_log).read_to_string(&mut text).unwrap();
            text
        });
        let thread = thread::spawn(move || {
            let output: OwnedFd = theirs.try_clone().unwrap().into();
            connector::run(theirs.into(), output, Some(log), &options)
        });
        let mut this = Self {
            output: BufReader::new(input.try_clone().unwrap()),
            input,
            log: log_reader,
            thread,
            directory: tempfile::tempdir().unwrap(),
        };
        let data = json!({
            "url": target.url("socket=%2Frun%2Fmtunnel"),
            "fingerprint": target.fingerprint.to_string(),
        });
        this.send(&json!({ "control": true, "cmd": "connect", "data": data }));
        assert_eq!(this.request(&json!({ "cmd": "version" }))["api"], 2);
        this
    }

    fn send(&mut self, line: &Value) {
        self.input
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }

    pub(crate) fn request(&mut self, line: &Value) -> Value {
        self.send(line);
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// Forwards a new local path to `remote` and connects to it.
    pub(crate) fn open(&mut self, target: &Target, remote: &str) -> UnixStream {
        let number = std::fs::read_dir(self.directory.path()).unwrap().count();
        let path = self.directory.path().join(format!("{number}.sock"));
        let answer = self.request(&forward_command(target, &path, remote));
        assert_eq!(answer["success"], true, "{answer}");
        UnixStream::connect(path).unwrap()
    }

    /// Ends the input and returns the log.
    pub(crate) fn finish(self) -> String {
        self.input.shutdown(Shutdown::Write).unwrap();
        self.thread.join().unwrap().unwrap();
        self.log.join().unwrap()
    }
}
