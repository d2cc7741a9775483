//! The process on the source: control protocol, forwards, planes.
//!
//! It speaks the protocol of `proxmox-websocket-tunnel` on its standard input and output
//! (`protocol`), keeps the control connection (`control`), agrees with the target on a plane
//! (`negotiation`, `race`), and serves forwards (`forward`), each connection of which gets a
//! websocket (`dial`, `wire`) or a connection to the target's listener (`direct`) of its own. What
//! went over them is counted by `traffic` and told by `record`.

mod control;
mod dial;
mod direct;
mod forward;
mod negotiation;
mod options;
mod protocol;
mod race;
mod record;
mod socket;
mod traffic;
mod wire;

pub use control::ControlError;
pub use dial::DialError;
pub use options::Options;

use crate::capability::{Plan, Plane};
use crate::direct::message::Stat;
use crate::process::{Input, Line, Log, Output, Signals, Tie, raise_limit};
use control::Control;
use dial::Target;
use direct::Direct;
use forward::{Forward, Route};
use negotiation::{Negotiated, Wish, negotiate};
use protocol::{AskError, Command, ForwardData, TargetData};
use record::{Record, Way};
use serde_json::json;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinHandle};
use traffic::Traffic;

/// Forwards at one time: RAM, NBD and one offline disk need three.
const MAX_FORWARDS: usize = 256;

/// Why the connector ended before its input did.
#[derive(Debug, Error)]
pub enum ConnectorError {
    /// A descriptor cannot be used.
    #[error("standard input or output: {0}")]
    Channel(io::Error),
    /// The system refuses something that everything needs.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// The control connection is over.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// There was never a control connection, though one was asked for.
    #[error("no control connection: {0}")]
    NotConnected(String),
    /// A signal.
    #[error("ended by {0}")]
    Signal(&'static str),
}

/// Runs the connector until its input ends, the control connection is over, or SIGHUP, SIGINT,
/// SIGTERM or SIGALRM arrives, which is raised again after everything has been cleaned up.
///
/// `input` and `output` carry the protocol, diagnostics go to `log`, a line each. Forward sockets
/// are removed at the end. Blocks the calling thread; resolving a host name starts another for as
/// long as that takes.
pub fn run(
    input: OwnedFd,
    output: OwnedFd,
    log: Option<OwnedFd>,
    options: &Options,
) -> Result<(), ConnectorError> {
    raise_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ConnectorError::Start)?;
    let result = runtime.block_on(async {
        let signals = Signals::block().map_err(ConnectorError::Start)?;
        let _tie = options
            .end_with_parent
            .then(Tie::to_parent)
            .transpose()
            .map_err(ConnectorError::Start)?;
        let mut connector = Connector {
            input: Input::new(input).map_err(ConnectorError::Channel)?,
            output: Arc::new(Output::new(output).map_err(ConnectorError::Channel)?),
            log: Arc::new(Log::new(log)),
            options: Arc::new(options.clone()),
            state: State::Unconnected,
            plan: None,
            direct: None,
            forwards: Vec::new(),
            traffic: Arc::new(Traffic::default()),
            recorded: false,
        };
        let (traffic, log) = (connector.traffic.clone(), connector.log.clone());
        let result = tokio::select! {
            result = connector.run() => result,
            never = traffic.tell(&log) => match never {},
            signal = signals.wait() => Err(match signal {
                Ok(name) => ConnectorError::Signal(name),
                Err(error) => ConnectorError::Start(error),
            }),
        };
        connector.stop_forwards().await;
        connector.record(None);
        match &result {
            // Why there was no connection has been told when it was tried.
            Ok(()) | Err(ConnectorError::NotConnected(_)) => {}
            Err(error) => connector.log.line(error),
        }
        result
    });
    // A name that is still being looked up must not keep us.
    runtime.shutdown_background();
    result
}

/// The control connection's state.
enum State {
    /// Nobody has asked for one yet.
    Unconnected,
    /// It could not be opened; every command is answered with the reason.
    Failed(String),
    /// It is open, and a task keeps it so.
    Connected {
        control: Control,
        task: JoinHandle<Result<(), ControlError>>,
        /// Where it goes, which is where forwards' websockets go too.
        way: Way,
    },
}

impl State {
    /// Waits for the end of the control connection, forever if there is none.
    async fn ended(&mut self) -> ControlError {
        match self {
            Self::Connected { task, .. } => {
                outcome(task.await).err().unwrap_or(ControlError::Closed)
            }
            _ => pending().await,
        }
    }
}

/// The way of forwards that go over websockets.
fn websocket_way(remote: String, protection: &dial::Protection) -> Way {
    Way {
        plane: Plane::Websocket,
        protocol: None,
        cipher: protection.cipher.clone(),
        local: protection.local.map(|local| local.ip().to_string()),
        remote,
        fingerprint: protection
            .fingerprint
            .map(|fingerprint| fingerprint.to_string()),
        own_fingerprint: None,
    }
}

/// A task's own result; one that panicked is a connection that failed.
fn outcome(joined: Result<Result<(), ControlError>, JoinError>) -> Result<(), ControlError> {
    joined.unwrap_or_else(|error| Err(ControlError::Io(io::Error::other(error))))
}

/// A forward's task, with what it takes to end its listening.
struct Running {
    path: PathBuf,
    /// Another forward has the path now.
    replaced: Arc<Notify>,
    task: JoinHandle<()>,
}

struct Connector {
    input: Input,
    output: Arc<Output>,
    log: Arc<Log>,
    options: Arc<Options>,
    state: State,
    /// What was agreed with the target, if it was asked.
    plan: Option<Plan>,
    /// The listener that forwards go to; without, they go over websockets.
    direct: Option<Arc<Direct>>,
    forwards: Vec<Running>,
    traffic: Arc<Traffic>,
    /// The record has been told.
    recorded: bool,
}

impl Connector {
    /// Serves the input to its end, then says goodbye.
    async fn run(&mut self) -> Result<(), ConnectorError> {
        loop {
            let line = tokio::select! {
                line = self.input.line() => line.map_err(ConnectorError::Channel)?,
                error = self.state.ended() => return Err(error.into()),
            };
            match line {
                Some(line) => self.handle(line).await?,
                None => break,
            }
        }
        self.stop_forwards().await;
        match std::mem::replace(&mut self.state, State::Unconnected) {
            State::Unconnected => Ok(()),
            State::Failed(reason) => Err(ConnectorError::NotConnected(reason)),
            State::Connected { control, task, .. } => {
                // The task goes on until nobody can ask it for anything any more.
                drop(control);
                Ok(outcome(task.await)?)
            }
        }
    }

    async fn handle(&mut self, line: Line) -> Result<(), ConnectorError> {
        let Line::Whole(line) = line else {
            return self.refuse("a command is longer than 1 MiB").await;
        };
        match protocol::parse(&line) {
            Ok(Command::Pass) => self.pass(line).await,
            Ok(Command::Connect(data)) => {
                self.connect(data).await;
                Ok(())
            }
            Ok(Command::Forward(data)) => self.forward(data).await,
            Ok(Command::Direct(wish)) => self.direct(wish).await,
            Ok(Command::Finish) => self.finish().await,
            Err(error) => self.refuse(&error.to_string()).await,
        }
    }

    /// Opens the control connection. There is no answer: the next command's tells.
    async fn connect(&mut self, data: TargetData) {
        if matches!(self.state, State::Connected { .. }) {
            self.log
                .line("connect: there is a control connection already; ignored");
            return;
        }
        let opened = async {
            let target = Target::new(data)?;
            let (sender, receiver, protection) = target.dial(None, &self.options).await?;
            Ok::<_, DialError>((target.peer(), protection, sender, receiver))
        };
        self.state = match opened.await {
            Ok((peer, protection, sender, receiver)) => {
                self.log.line(format_args!(
                    "control connection to {peer} open ({})",
                    protection.cipher
                ));
                let output = self.output.clone();
                let (control, task) = Control::new(sender, receiver, output, self.log.clone());
                State::Connected {
                    control,
                    task: tokio::spawn(task),
                    way: websocket_way(peer, &protection),
                }
            }
            Err(error) => {
                self.log
                    .line(format_args!("no control connection: {error}"));
                State::Failed(error.to_string())
            }
        };
    }

    /// Agrees with the target on the plane that later forwards take.
    async fn direct(&mut self, wish: Wish) -> Result<(), ConnectorError> {
        let State::Connected { control, .. } = &self.state else {
            return self.refuse("direct: there is no control connection").await;
        };
        if self.plan.is_some() {
            return self.refuse("direct: there is a plan already").await;
        }
        match negotiate(&wish, control, &self.options, &self.log).await {
            Ok(Negotiated { plan, direct }) => {
                let summary = direct.as_ref().map(Direct::summary);
                let answer = json!({ "plan": &plan, "direct": summary });
                self.plan = Some(plan);
                self.direct = direct.map(Arc::new);
                self.answer(protocol::success(answer)).await
            }
            Err(error) => self.refuse(&error.to_string()).await,
        }
    }

    /// Ends the listener, and tells what went over the forwards. The listener has to be there to
    /// be ended: one that died before has, for all we know, taken something with it.
    async fn finish(&mut self) -> Result<(), ConnectorError> {
        let (mut stat, mut death) = (None, None);
        if let (State::Connected { control, .. }, Some(direct)) = (&self.state, &self.direct) {
            direct.stop_watching();
            death = direct.fate().reason();
            match protocol::ask::<Stat>(control, &json!({ "op": "close" })).await {
                Ok(last) => stat = Some(last),
                Err(error) => {
                    let reason = format!("the target's listener cannot be closed: {error}");
                    self.log.line(&reason);
                    // A worker that is only slow has lost nothing.
                    if let AskError::Refused(_) = error {
                        death = death.or(Some(reason));
                    }
                }
            }
        }
        let record = self.record(stat.as_ref());
        let mut answer = json!({ "record": record });
        if let Some(reason) = death {
            answer["error"] = reason.into();
        }
        self.answer(protocol::success(answer)).await
    }

    /// Tells once what went over the forwards, if there was anything to expect.
    fn record(&mut self, stat: Option<&Stat>) -> Option<Record> {
        let way = match (&self.direct, &self.state) {
            (Some(direct), _) => direct.summary().into(),
            (None, State::Connected { way, .. }) => way.clone(),
            (None, _) => return None,
        };
        let record = Record::new(&self.traffic.total(), self.plan.as_ref(), way, stat);
        if self.recorded || (self.plan.is_none() && record.is_empty()) {
            return Some(record);
        }
        self.recorded = true;
        self.log.line(format_args!("migration data: {record}"));
        if let Ok(json) = serde_json::to_string(&record) {
            self.log.line(format_args!("record: {json}"));
        }
        Some(record)
    }

    async fn forward(&mut self, data: ForwardData) -> Result<(), ConnectorError> {
        self.forwards.retain(|forward| !forward.task.is_finished());
        let State::Connected { control, .. } = &self.state else {
            return self.refuse("forward: there is no control connection").await;
        };
        if self.forwards.len() >= MAX_FORWARDS {
            return self.refuse("forward: there are 256 already").await;
        }
        let path = data.unix.clone();
        let route = match &self.direct {
            Some(direct) => Route::direct(data, direct.clone(), control).await,
            None => Route::websocket(data, control.clone(), self.options.clone()),
        };
        let flow = self.traffic.flow(path.display().to_string());
        let bound = route.and_then(|route| Forward::new(&path, route, flow, self.log.clone()));
        match bound {
            Ok(forward) => {
                // It could only be bound because the path was free: a caller that uses it for one
                // disk after the other has removed the last one's socket.
                for before in self.forwards.iter().filter(|before| before.path == path) {
                    before.replaced.notify_one();
                }
                let replaced = Arc::new(Notify::new());
                let task = tokio::spawn(forward.run(replaced.clone()));
                self.forwards.push(Running {
                    path,
                    replaced,
                    task,
                });
                self.answer(protocol::success(json!({}))).await
            }
            Err(error) => self.refuse(&error.to_string()).await,
        }
    }

    async fn pass(&mut self, line: Vec<u8>) -> Result<(), ConnectorError> {
        match &self.state {
            State::Connected { control, .. } => {
                if let Some(reason) = self.lost(&line) {
                    return self.refuse(&reason).await;
                }
                control.pass(line).await;
                Ok(())
            }
            State::Unconnected => {
                self.answer(protocol::failure("not connected: no connect command came"))
                    .await
            }
            State::Failed(reason) => {
                let message = format!("not connected: {reason}");
                self.answer(protocol::failure(message)).await
            }
        }
    }

    /// Why the answer to this command would mislead: when the other node or its listener is dead, a
    /// program that reads an import there may have seen an end of stream, or waits for one for ever,
    /// and the caller, who has written everything, asks for nothing but how the import went.
    fn lost(&self, line: &[u8]) -> Option<String> {
        let reason = self.direct.as_ref()?.fate().reason()?;
        protocol::is_about_an_import(line)
            .then(|| format!("what was on its way to the target is lost: {reason}"))
    }

    /// Says no to a command, in the log and to whoever waits for its answer.
    async fn refuse(&self, reason: &str) -> Result<(), ConnectorError> {
        self.log.line(reason);
        self.answer(protocol::failure(reason)).await
    }

    async fn answer(&self, line: Vec<u8>) -> Result<(), ConnectorError> {
        match &self.state {
            State::Connected { control, .. } => {
                control.answer(line).await;
                Ok(())
            }
            _ => self
                .output
                .lock()
                .await
                .line(&line)
                .await
                .map_err(ConnectorError::Channel),
        }
    }

    /// Ends every forward: sockets are removed, connections that are not over fail.
    async fn stop_forwards(&mut self) {
        for forward in self.forwards.drain(..) {
            forward.task.abort();
            let _ = forward.task.await;
        }
    }
}
