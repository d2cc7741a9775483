//! A listener, in a thread or in a process, and the worker's line to it.

use pve_tunnel::direct::message::{Open, Stat};
use pve_tunnel::listener::{self, ListenerError, Options};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

pub struct Listener {
    line: BufReader<UnixStream>,
    thread: Option<JoinHandle<Result<(), ListenerError>>>,
    child: Option<Child>,
    log: Option<JoinHandle<String>>,
    pub opened: Value,
}

impl Listener {
    /// One that has answered: where it is, or why it is not.
    pub fn start(options: Value) -> Self {
        let options: Options = serde_json::from_value(options).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (log_in, log_out) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            listener::run(
                OwnedFd::from(theirs),
                Some(OwnedFd::from(log_out)),
                &options,
            )
        });
        Self::opened(ours, log_in, Some(thread), None)
    }

    /// One that is the child that this command starts, with the worker's line as its standard input.
    pub fn in_process(command: &mut Command) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut child = command
            .stdin(OwnedFd::from(theirs))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // What the command holds of the line would keep its end from being seen.
        command.stdin(Stdio::null());
        let log = child.stderr.take().unwrap();
        Self::opened(ours, log, None, Some(child))
    }

    fn opened(
        ours: UnixStream,
        log: impl Read + Send + 'static,
        thread: Option<JoinHandle<Result<(), ListenerError>>>,
        child: Option<Child>,
    ) -> Self {
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            for line in BufReader::new(log).lines() {
                text.push_str(&line.unwrap());
                text.push('\n');
            }
            text
        });
        let mut listener = Self {
            line: BufReader::new(ours),
            thread,
            child,
            log: Some(log),
            opened: Value::Null,
        };
        listener.opened = listener.hear();
        listener
    }

    pub fn tcp() -> Self {
        Self::start(json!({ "plane": "tcp", "network": "127.0.0.0/8", "node": "node" }))
    }

    pub fn open(&self) -> Open {
        serde_json::from_value(self.opened.clone()).unwrap()
    }

    pub fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.line.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    pub fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.line.get_mut(), "{request}").unwrap();
        self.hear()
    }

    pub fn forward(&mut self, path: &std::path::Path) -> u32 {
        let answer = self.ask(&json!({ "op": "forward", "path": path }));
        u32::try_from(answer["number"].as_u64().unwrap()).unwrap()
    }

    pub fn stat(&mut self) -> Stat {
        serde_json::from_value(self.ask(&json!({ "op": "stat" }))).unwrap()
    }

    /// Asks until the counters are as they should be; the last ones are in the panic otherwise.
    pub fn stat_until(&mut self, right: impl Fn(&Stat) -> bool) -> Stat {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let stat = self.stat();
            if right(&stat) {
                return stat;
            }
            assert!(std::time::Instant::now() < until, "{stat:?}");
            std::thread::yield_now();
        }
    }

    /// Hangs up; how it ended, and its log.
    pub fn end(mut self) -> (Result<(), ListenerError>, String) {
        let _ = self.line.get_ref().shutdown(std::net::Shutdown::Both);
        let result = self.thread.take().unwrap().join().unwrap();
        (result, self.log.take().unwrap().join().unwrap())
    }

    /// The process that it is.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Waits for the process to end; how it did, and its log.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = self.child.take().unwrap().wait().unwrap();
        (status, self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
