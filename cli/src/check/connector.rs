//! A connector as a child process: `pve-tunnel connect`, which a migration uses, too.

use super::connector_log::ConnectorLog;
use super::interrupt::Interrupt;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Longest line of a connector, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// How often a wait looks for an interruption.
const SLICE: Duration = Duration::from_millis(100);

/// For the connector to exit after it has closed its output.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// For the connector to end after the end of its input.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(30);

/// The same after a signal.
const INTERRUPTED_END_TIMEOUT: Duration = Duration::from_secs(3);

/// For the end of the tunnel after a signal.
const INTERRUPTED_QUIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no answer, or not the expected one.
#[derive(Debug, Error)]
pub(super) enum ConnectorError {
    #[error("cannot start the connector: {0}")]
    Start(io::Error),
    #[error("the connector has ended{0}")]
    Ended(String),
    #[error("the connector, a process of this node, was ended by {0}")]
    Killed(String),
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("interrupted")]
    Interrupted,
    #[error("{0}")]
    Refused(String),
    #[error("the answer is not a JSON object")]
    Malformed,
}

/// A running connector.
pub(super) struct Connector {
    child: Child,
    /// None after its end was requested.
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    log: ConnectorLog,
    interrupt: Interrupt,
}

impl Connector {
    pub(super) fn start(interrupt: Interrupt) -> Result<Self, ConnectorError> {
        let program = std::env::current_exe().map_err(ConnectorError::Start)?;
        let mut child = Command::new(program)
            .arg("connect")
            // A terminal sends its signals to the whole process group, also before the connector has left it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(ConnectorError::Start)?;
        let (sender, lines) = channel();
        if let Some(output) = child.stdout.take() {
            thread::spawn(move || {
                for_each_line(output, |line| drop(sender.send(line)));
            });
        }
        let log = ConnectorLog::default();
        if let Some(errors) = child.stderr.take() {
            let log = log.clone();
            thread::spawn(move || for_each_line(errors, |line| log.add(line)));
        }
        Ok(Self {
            input: child.stdin.take(),
            child,
            lines,
            log,
            interrupt,
        })
    }

    /// The process ID.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a control command that has no answer.
    pub(super) fn send_control(
        &mut self,
        command: &str,
        data: &Value,
    ) -> Result<(), ConnectorError> {
        self.send(&json!({ "control": true, "cmd": command, "data": data }))
    }

    /// Sends a control command, and returns its answer.
    pub(super) fn control(
        &mut self,
        command: &str,
        data: &Value,
        limit: Duration,
    ) -> Result<Value, ConnectorError> {
        self.send_control(command, data)?;
        succeeded(self.answer(limit)?)
    }

    /// Sends a command to the worker, and returns its answer.
    pub(super) fn worker(
        &mut self,
        command: &Value,
        limit: Duration,
    ) -> Result<Value, ConnectorError> {
        self.send(command)?;
        succeeded(self.answer(limit)?)
    }

    /// As [`Self::worker`], and the answer need not have `success`.
    pub(super) fn version(&mut self, limit: Duration) -> Result<Value, ConnectorError> {
        self.send(&json!({ "cmd": "version" }))?;
        let answer = self.answer(limit)?;
        match answer.get("success") {
            None => Ok(answer),
            Some(_) => succeeded(answer),
        }
    }

    /// Closes the tunnel: the worker removes the empty guest. An interruption does not interrupt this.
    pub(super) fn quit(&mut self, limit: Duration) -> Result<(), ConnectorError> {
        let cleanup = json!({ "cleanup": true });
        self.send_control("finish", &cleanup)?;
        self.send(&json!({ "cmd": "quit", "cleanup": true }))?;
        // The first answer belongs to `finish`. Earlier commands may have been interrupted before their
        // answers arrived.
        let started = Instant::now();
        let is_over =
            |interrupt: &Interrupt| interrupt.is_over(started, limit, INTERRUPTED_QUIT_TIMEOUT);
        loop {
            let answer = self.answer_until(&is_over, started)?;
            if answer.get("record").is_some() || answer.get("error").is_some() {
                break;
            }
        }
        succeeded(self.answer_until(&is_over, started)?).map(drop)
    }

    /// Ends the process.
    pub(super) fn end(mut self) {
        self.input = None;
        let started = Instant::now();
        while !self
            .interrupt
            .is_over(started, END_TIMEOUT, INTERRUPTED_END_TIMEOUT)
        {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(SLICE / 10),
                _ => break,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(super) fn log(&self) -> &ConnectorLog {
        &self.log
    }

    fn send(&mut self, line: &Value) -> Result<(), ConnectorError> {
        let sent = match &mut self.input {
            Some(input) => writeln!(input, "{line}").and_then(|()| input.flush()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        sent.map_err(|_| self.ended())
    }

    /// An answer to a command, unless the check is interrupted.
    fn answer(&mut self, limit: Duration) -> Result<Value, ConnectorError> {
        let started = Instant::now();
        let is_over = |interrupt: &Interrupt| interrupt.is_over(started, limit, Duration::ZERO);
        self.answer_until(&is_over, started)
            .map_err(|error| match error {
                ConnectorError::Timeout(_) if self.interrupt.has_arrived() => {
                    ConnectorError::Interrupted
                }
                error => error,
            })
    }

    fn answer_until(
        &mut self,
        is_over: &dyn Fn(&Interrupt) -> bool,
        started: Instant,
    ) -> Result<Value, ConnectorError> {
        loop {
            if is_over(&self.interrupt) {
                return Err(ConnectorError::Timeout(started.elapsed()));
            }
            match self.lines.recv_timeout(SLICE) {
                Ok(line) => {
                    let answer: Option<Value> = serde_json::from_str(&line).ok();
                    return answer
                        .filter(Value::is_object)
                        .ok_or(ConnectorError::Malformed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
            }
        }
    }

    /// Why the connector has closed its ends of the pipes.
    fn ended(&mut self) -> ConnectorError {
        let started = Instant::now();
        let status = loop {
            match self.child.try_wait() {
                Ok(None) if started.elapsed() < EXIT_TIMEOUT => thread::sleep(SLICE / 10),
                status => break status.ok().flatten(),
            }
        };
        if let Some(number) = status.and_then(|status| status.signal()) {
            let signal = Signal::try_from(number).map(|signal| signal.as_str().to_owned());
            return ConnectorError::Killed(signal.unwrap_or(format!("signal {number}")));
        }
        let last = self.log.last();
        ConnectorError::Ended(last.map_or(String::new(), |line| format!(": {line}")))
    }
}

/// The answer, or its reason if it is a refusal.
fn succeeded(answer: Value) -> Result<Value, ConnectorError> {
    let success = answer.get("success");
    let refused = match success {
        Some(Value::Bool(success)) => !success,
        Some(Value::Number(number)) => number.as_u64() == Some(0),
        Some(Value::String(text)) => text.is_empty() || text == "0",
        _ => true,
    };
    if !refused {
        return Ok(answer);
    }
    let reason = answer.get("msg").and_then(Value::as_str);
    Err(ConnectorError::Refused(
        reason
            .unwrap_or("refused without a reason")
            .trim()
            .to_owned(),
    ))
}

/// A line above the limit ends the reading: the connector sends none.
fn for_each_line(source: impl Read, mut each: impl FnMut(String)) {
    let mut source = BufReader::new(source);
    loop {
        let mut line = Vec::new();
        match source.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(1..) if line.last() == Some(&b'\n') => {
                each(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            _ => return,
        }
    }
}
