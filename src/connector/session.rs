//! One run of the connector: reads commands from standard input and carries them out.

use super::address_rules::{AddressRules, ReachedApi};
use super::api_address::ApiAddress;
use super::dial::{self, ApiEndpoint, DialError, Websocket};
use super::direct_target::DirectTarget;
use super::forward::{Forward, ListenError, Traffic, Transport, TransportError};
use super::negotiation::{Negotiated, negotiate};
use super::negotiation_context::NegotiationContext;
use super::protocol::{self, Command, FinishData, ForwardData, PlaneRequest, TargetData};
use super::published::{Published, guest_of_url};
use super::record::{Record, RecordedPath};
use super::worker::{
    CallerCommand, ControlError, DiskImport, RequestError, WorkerChannel, request_import_status,
    request_operation,
};
use super::{ConnectorError, Options};
use crate::direct::message::Stat;
use crate::guest_socket::Content;
use crate::plan::Plan;
use crate::plane::Plane;
use crate::process::{Input, Line, Log, Output, too_long};
use crate::tuning::Tuning;
use serde_json::{Value, json};
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::sleep;

/// Forwards at one time. RAM, NBD and one offline disk need three.
const MAX_FORWARDS: usize = 256;

/// How long a probe continues after the end of the input. A target that can be reached answers within
/// this time, also if the input was only this command.
const PROBE_AFTER_INPUT: Duration = Duration::from_secs(2);

/// The state of the control connection.
enum State {
    /// It was not requested yet.
    Unconnected,
    /// It could not be opened. Every command is answered with the reason.
    Failed(String),
    /// It is open.
    Connected {
        worker: WorkerChannel,
        task: JoinHandle<Result<(), ControlError>>,
        /// The path of the control connection, and of forwards over websockets.
        path: RecordedPath,
        /// Where the target's API was reached.
        api: ReachedApi,
    },
}

impl State {
    /// Waits until the control connection ends. Never returns if there is none.
    async fn ended(&mut self) -> ControlError {
        match self {
            Self::Connected { task, .. } => {
                outcome(task.await).err().unwrap_or(ControlError::Closed)
            }
            _ => pending().await,
        }
    }
}

/// The path of forwards over websockets.
fn websocket_path(remote: String, protection: &dial::Protection) -> RecordedPath {
    RecordedPath {
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

/// The result of a task. A panicked task is a failed connection.
fn outcome(joined: Result<Result<(), ControlError>, JoinError>) -> Result<(), ControlError> {
    joined.unwrap_or_else(|error| Err(ControlError::Io(io::Error::other(error))))
}

/// Why a forward was refused.
#[derive(Debug, Error)]
enum ForwardError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// A running forward.
struct RunningForward {
    path: PathBuf,
    /// Notified when another forward has taken the path.
    replaced: Arc<Notify>,
    task: JoinHandle<()>,
}

/// The connector: its control connection, its plane and its forwards.
pub(super) struct Connector {
    input: Input,
    output: Arc<Output>,
    log: Arc<Log>,
    options: Arc<Options>,
    state: State,
    /// The address of the target's API.
    address: Arc<ApiAddress>,
    /// The plan, if a plane was negotiated.
    plan: Option<Plan>,
    /// The listener that forwards connect to. Without one, they use websockets.
    target: Option<Arc<DirectTarget>>,
    forwards: Vec<RunningForward>,
    /// For the connections of forwards.
    tuning: Arc<Tuning>,
    traffic: Arc<Traffic>,
    published: Arc<Published>,
    /// Whether the record was logged.
    recorded: bool,
    import: DiskImport,
    /// Whether the caller has sent `quit`.
    quit: bool,
    /// The `id` of the control command that is being carried out.
    answer_id: Option<String>,
}

impl Connector {
    pub(super) fn new(
        input: Input,
        output: Output,
        log: Arc<Log>,
        options: &Options,
        traffic: Arc<Traffic>,
        published: Arc<Published>,
    ) -> Self {
        Self {
            input,
            output: Arc::new(output),
            log,
            options: Arc::new(options.clone()),
            state: State::Unconnected,
            address: Arc::default(),
            plan: None,
            target: None,
            forwards: Vec::new(),
            tuning: Arc::new(Tuning::new(options.tuning())),
            traffic,
            published,
            recorded: false,
            import: DiskImport::default(),
            quit: false,
            answer_id: None,
        }
    }

    /// Serves the input to its end, then closes the control connection.
    pub(super) async fn run(&mut self) -> Result<(), ConnectorError> {
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
        if let Some(target) = &self.target {
            // The listener ends with its worker, and the worker after this connection.
            target.stop_heartbeat();
        }
        if matches!(self.state, State::Connected { .. }) && !self.quit {
            self.log
                .line("the caller of this tunnel has ended without 'quit'");
        }
        self.stop_forwards().await;
        match std::mem::replace(&mut self.state, State::Unconnected) {
            State::Unconnected => Ok(()),
            State::Failed(reason) => Err(ConnectorError::NotConnected(reason)),
            State::Connected { worker, task, .. } => {
                // The task ends after the last handle on the channel is dropped.
                drop(worker);
                Ok(outcome(task.await)?)
            }
        }
    }

    async fn handle(&mut self, line: Line) -> Result<(), ConnectorError> {
        self.answer_id = None;
        let Line::Whole(line) = line else {
            return self.refuse(&too_long("a command")).await;
        };
        self.answer_id = protocol::answer_id(&line);
        match protocol::parse(&line) {
            Ok(Command::Pass) => self.pass(line).await,
            Ok(Command::Connect(data)) => {
                self.connect(data).await;
                Ok(())
            }
            Ok(Command::Probe(data)) => self.probe(data).await,
            Ok(Command::Forward(data)) => self.forward(data).await,
            Ok(Command::Direct(request)) => self.negotiate(request).await,
            Ok(Command::Finish(data)) => self.finish(&data).await,
            Err(error) => self.refuse(&error.to_string()).await,
        }
    }

    /// Opens the control connection. It has no answer: a failure is reported in the next command's.
    async fn connect(&mut self, data: TargetData) {
        if matches!(self.state, State::Connected { .. }) {
            self.log
                .line("connect: there is already a control connection; ignored");
            return;
        }
        let guest = guest_of_url(data.url.reveal());
        let opened = async {
            let endpoint = ApiEndpoint::new(data, self.address.clone())?;
            let Websocket {
                sender,
                receiver,
                protection,
                ..
            } = endpoint.dial(None, &self.options).await?;
            let api = ReachedApi {
                host: endpoint.host().to_owned(),
                address: protection.remote.map(|remote| remote.ip()),
            };
            Ok::<_, DialError>((endpoint.peer(), api, protection, sender, receiver))
        };
        self.state = match opened.await {
            Ok((peer, api, protection, sender, receiver)) => {
                self.log.line(format_args!(
                    "control connection to {peer} open ({})",
                    protection.cipher
                ));
                if let Some(warning) = &protection.warning {
                    self.log.line(format_args!("WARNING: {warning}"));
                }
                self.published.connected(&peer, guest);
                let output = self.output.clone();
                let (worker, task) = WorkerChannel::new(sender, receiver, output, self.log.clone());
                State::Connected {
                    worker,
                    task: tokio::spawn(task),
                    path: websocket_path(peer, &protection),
                    api,
                }
            }
            Err(error) => {
                self.log
                    .line(format_args!("no control connection: {error}"));
                State::Failed(error.to_string())
            }
        };
    }

    /// Checks that a control connection can be opened, up to its first request. Nothing exists at the
    /// target yet, and nothing is created there. At the end of the input, the answer probably has no
    /// reader any more, and the caller may be waiting for the end of the connector.
    async fn probe(&mut self, data: TargetData) -> Result<(), ConnectorError> {
        let (address, options) = (self.address.clone(), self.options.clone());
        let probed = async {
            let endpoint = ApiEndpoint::new(data, address)?;
            endpoint.probe(&options).await
        };
        let abandoned = async {
            self.input.end().await;
            sleep(PROBE_AFTER_INPUT).await;
        };
        let result = tokio::select! {
            result = probed => result.map_err(|error| error.to_string()),
            () = abandoned => Err(
                "the connection was not tested: the input has ended before it was open".to_owned()
            ),
        };
        match result {
            Ok(protection) => {
                let address = protection.remote.map(|remote| remote.ip().to_canonical());
                let answer = json!({ "address": address, "cipher": protection.cipher });
                self.answer(protocol::success(answer)).await
            }
            Err(reason) => self.refuse(&reason).await,
        }
    }

    /// Agrees with the target on the plane of the forwards that follow.
    async fn negotiate(&mut self, request: PlaneRequest) -> Result<(), ConnectorError> {
        let State::Connected { worker, api, .. } = &self.state else {
            return self.refuse("direct: there is no control connection").await;
        };
        if self.plan.is_some() {
            return self.refuse("direct: there is already a plan").await;
        }
        let rules = AddressRules::new(&request, api);
        let context = NegotiationContext {
            request: &request,
            worker,
            address: &self.address,
            rules: &rules,
            options: &self.options,
            log: &self.log,
        };
        match negotiate(&context).await {
            Ok(Negotiated { plan, target }) => {
                self.tuning = Arc::new(Tuning::new(request.tuning(&self.options)));
                let summary = target.as_ref().map(|target| target.summary().clone());
                let direct = target.as_ref().filter(|target| target.is_direct());
                let listener = direct.map(DirectTarget::name);
                self.published.planned(plan.plane, listener);
                let answer = json!({ "plan": &plan, "direct": summary, "rules": rules.to_json() });
                self.plan = Some(plan);
                self.target = target.map(Arc::new);
                self.answer(protocol::success(answer)).await
            }
            Err(error) => self.refuse(&error.to_string()).await,
        }
    }

    /// Closes the listener and answers with the record of the forwards. If the listener has died
    /// before, data may be lost, and the answer reports an error.
    ///
    /// Before a clean-up the forwards are ended, so that the listener does not wait for their data,
    /// and the worker learns the volume of an import that ends with them. The caller may have only a
    /// few seconds: Proxmox VE kills a task 5 s after it has requested its end.
    async fn finish(&mut self, data: &FinishData) -> Result<(), ConnectorError> {
        if data.cleanup {
            self.stop_forwards().await;
        }
        let (mut stat, mut death) = (None, None);
        if let (State::Connected { worker, .. }, Some(target)) = (&self.state, &self.target) {
            target.stop_heartbeat();
            death = target.liveness().cause_of_death();
            match request_operation::<Stat>(worker, &json!({ "op": "close" })).await {
                Ok(last) => stat = Some(last),
                Err(error) => {
                    let reason = format!("the target's listener cannot be closed: {error}");
                    self.log.line(&reason);
                    // A worker that is only slow has lost no data.
                    if let RequestError::Refused(_) = error {
                        death = death.or(Some(reason));
                    }
                }
            }
        }
        if let (State::Connected { worker, .. }, true) = (&self.state, data.cleanup) {
            if self.import.may_be_running() {
                request_import_status(worker).await;
            }
        }
        let record = self.record(stat.as_ref());
        let mut answer = json!({ "record": record });
        if let Some(reason) = death {
            answer["error"] = reason.into();
        }
        self.answer(protocol::success(answer)).await
    }

    /// Logs the record of the forwards, unless it was logged before.
    pub(super) fn log_record(&mut self) {
        self.record(None);
    }

    /// The record of the forwards. Logs it once, if there was a plan or a connection.
    fn record(&mut self, stat: Option<&Stat>) -> Option<Record> {
        let path = match (&self.target, &self.state) {
            (Some(target), _) => target.summary().clone().into(),
            (None, State::Connected { path, .. }) => path.clone(),
            (None, _) => return None,
        };
        let record = Record::new(&self.traffic.total(), self.plan.as_ref(), path, stat);
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
        let State::Connected { worker, .. } = &self.state else {
            return self.refuse("forward: there is no control connection").await;
        };
        if self.forwards.len() >= MAX_FORWARDS {
            let reason = format!("forward: there are already {MAX_FORWARDS}");
            return self.refuse(&reason).await;
        }
        let path = data.unix.clone();
        match self.bind_forward(&path, data, worker).await {
            Ok(forward) => {
                // The path was free: a caller that reuses it for one disk after the other has removed
                // the last forward's socket.
                for before in self.forwards.iter().filter(|before| before.path == path) {
                    before.replaced.notify_one();
                }
                self.published.forwarded(&path);
                let replaced = Arc::new(Notify::new());
                let task = tokio::spawn(forward.run(replaced.clone()));
                self.forwards.push(RunningForward {
                    path,
                    replaced,
                    task,
                });
                self.answer(protocol::success(json!({}))).await
            }
            Err(error) => self.refuse(&error.to_string()).await,
        }
    }

    async fn bind_forward(
        &self,
        path: &Path,
        data: ForwardData,
        worker: &WorkerChannel,
    ) -> Result<Forward, ForwardError> {
        let remote = data.ticket.get("path").and_then(Value::as_str);
        let load = (Content::of(remote.unwrap_or_default()), data.size);
        let transport = match &self.target {
            Some(target) => Transport::direct(data, target.clone(), worker).await?,
            None => {
                let (worker, options) = (worker.clone(), self.options.clone());
                Transport::websocket(data, worker, self.address.clone(), options)?
            }
        };
        let log = self.log.clone();
        let tuning = self.tuning.clone();
        Ok(Forward::new(
            path,
            load,
            transport,
            &self.traffic,
            tuning,
            log,
        )?)
    }

    /// Sends a line of the caller to the worker.
    async fn pass(&mut self, line: Vec<u8>) -> Result<(), ConnectorError> {
        match &self.state {
            State::Connected { worker, .. } => {
                self.traffic.observe_command(&line);
                let command = CallerCommand::of(&line);
                if command == CallerCommand::QueryImport {
                    let import = self.import.clone();
                    let liveness = self.target.as_ref().map(|target| target.liveness().clone());
                    // The other node or its listener may die until the worker answers.
                    let replace = move |answer| {
                        let death = liveness.and_then(|liveness| liveness.cause_of_death());
                        import.answer(answer, death, Instant::now())
                    };
                    worker.pass_and_replace(line, replace).await;
                    return Ok(());
                }
                match command {
                    CallerCommand::StartImport => self.import.start(),
                    // The server would close its connections before their last requests arrive, and an
                    // operator would read that data may be missing.
                    CallerCommand::StopDisks => self.traffic.drain(Content::Disks).await,
                    CallerCommand::Quit => self.quit = true,
                    CallerCommand::QueryImport | CallerCommand::Other => {}
                }
                worker.pass(line).await;
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

    /// Refuses a command, in the log and in its answer.
    async fn refuse(&self, reason: &str) -> Result<(), ConnectorError> {
        self.log.line(reason);
        self.answer(protocol::failure(reason)).await
    }

    /// Answers the command that is being carried out.
    async fn answer(&self, mut answer: Value) -> Result<(), ConnectorError> {
        if let Some(id) = &self.answer_id {
            answer["id"] = id.as_str().into();
        }
        let line = answer.to_string().into_bytes();
        match &self.state {
            State::Connected { worker, .. } => {
                worker.answer(line).await;
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

    /// Ends every forward: sockets are removed, open connections fail.
    pub(super) async fn stop_forwards(&mut self) {
        for forward in self.forwards.drain(..) {
            forward.task.abort();
            let _ = forward.task.await;
        }
    }
}
