//! A listener in a thread or in a process, and the worker's end of its control socket.

use crate::wait_until;
use pve_tunnel::direct::message::{Open, Stat};
use pve_tunnel::listener::{self, ListenerError, Options};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

pub struct Listener {
    control: BufReader<UnixStream>,
    thread: Option<JoinHandle<Result<(), ListenerError>>>,
    child: Option<Child>,
    log: Option<JoinHandle<String>>,
    /// The listener's first message: its answer to `open`, or an error.
    pub opened: Value,
}

impl Listener {
    /// Starts a listener in a thread and waits for its first message.
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
        Self::from_parts(ours, log_in, Some(thread), None)
    }

    /// Starts a listener with this command, whose standard input becomes the control socket, and
    /// waits for its first message.
    pub fn in_process(command: &mut Command) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut child = command
            .stdin(OwnedFd::from(theirs))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The command keeps a copy of the socket, which would prevent an end of stream at this end.
        command.stdin(Stdio::null());
        let log = child.stderr.take().unwrap();
        Self::from_parts(ours, log, None, Some(child))
    }

    fn from_parts(
        control: UnixStream,
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
            control: BufReader::new(control),
            thread,
            child,
            log: Some(log),
            opened: Value::Null,
        };
        listener.opened = listener.receive();
        listener
    }

    pub fn tcp() -> Self {
        Self::start(json!({ "plane": "tcp", "network": "127.0.0.0/8", "node": "node" }))
    }

    /// The answer to `open` as a message of the protocol.
    pub fn open(&self) -> Open {
        serde_json::from_value(self.opened.clone()).unwrap()
    }

    pub fn receive(&mut self) -> Value {
        let mut line = String::new();
        match self.control.read_line(&mut line) {
            Ok(1..) => serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}")),
            ended => panic!("the listener has ended: {ended:?}: {}", self.end_of_log()),
        }
    }

    /// What a listener that has closed its control socket has logged.
    fn end_of_log(&mut self) -> String {
        let log = self.log.take().unwrap().join().unwrap();
        match self.child.as_mut().map(Child::wait) {
            Some(status) => format!("{status:?}: {log}"),
            None => log,
        }
    }

    pub fn request(&mut self, request: &Value) -> Value {
        writeln!(self.control.get_mut(), "{request}").unwrap();
        self.receive()
    }

    /// The same; none if the listener has ended.
    pub fn try_request(&mut self, request: &Value) -> Option<Value> {
        writeln!(self.control.get_mut(), "{request}").ok()?;
        let mut line = String::new();
        self.control.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    pub fn forward(&mut self, path: &std::path::Path) -> u32 {
        let answer = self.request(&json!({ "op": "forward", "path": path }));
        u32::try_from(answer["number"].as_u64().unwrap()).unwrap()
    }

    pub fn stat(&mut self) -> Stat {
        serde_json::from_value(self.request(&json!({ "op": "stat" }))).unwrap()
    }

    /// Requests the counters until they meet a condition. Panics with the last counters if they do
    /// not.
    pub fn stat_until(&mut self, condition: impl Fn(&Stat) -> bool) -> Stat {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let stat = self.stat();
            if condition(&stat) {
                return stat;
            }
            assert!(std::time::Instant::now() < deadline, "{stat:?}");
            std::thread::yield_now();
        }
    }

    /// Closes the control socket of a listener in a thread. Returns its result and its log.
    pub fn end(mut self) -> (Result<(), ListenerError>, String) {
        let _ = self.control.get_ref().shutdown(std::net::Shutdown::Both);
        let result = self.join();
        (result, self.log.take().unwrap().join().unwrap())
    }

    /// Waits until a listener in a thread has ended by itself. Returns its result.
    pub fn ended(mut self) -> Result<(), ListenerError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), ListenerError> {
        let thread = self.thread.take().unwrap();
        wait_until("the listener ends", || thread.is_finished());
        thread.join().unwrap()
    }

    /// The process ID of a listener in a process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Waits until the process has ended. Returns its status and its log.
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
