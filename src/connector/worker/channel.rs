//! The control connection: lines to the worker, and its answers in the same order.

use crate::connector::websocket_halves::{Receiver, Sender};
use crate::process::{Line, Lines, Log, MAX_LINE, Output};
use crate::relay::{Incoming, Outgoing, Received};
use crate::system::lock;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

/// Commands that may wait to be sent. A caller with more commands waits too.
const QUEUE: usize = 64;

/// How long the worker may still answer after the connector's input has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the peer may take to end the connection after the connector's close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Lines without a request after which the peer is not a worker. A late answer still has its request.
const MAX_UNREQUESTED: u32 = 16;

/// Why the control connection ended.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Sending or receiving failed.
    #[error("the control connection failed: {0}")]
    Io(#[from] io::Error),
    /// The target ended it first.
    #[error("the target closed the control connection: the worker behind it has ended")]
    Closed,
    /// It ended without a close frame.
    #[error("the control connection was cut off")]
    Cut,
    /// An answer above the limit.
    #[error("the worker's answer is longer than {} MiB", MAX_LINE >> 20)]
    TooLong,
    /// More lines without a request than the limit.
    #[error(
        "the target sent more than {MAX_UNREQUESTED} lines that no command requested: what answers there is not a tunnel worker"
    )]
    Unrequested,
}

/// Makes the caller's answer of the worker's.
type Replace = Box<dyn FnOnce(Vec<u8>) -> Vec<u8> + Send>;

/// What happens to an answer.
enum Pending {
    /// It goes to the connector's caller.
    Caller,
    /// What this function makes of it goes to the connector's caller.
    Replaced(Replace),
    /// It goes to one of the connector's own tasks.
    Task(oneshot::Sender<Vec<u8>>),
    /// It is here already, and goes to the caller after the answers before it.
    Answered(Vec<u8>),
}

enum Request {
    Send(Vec<u8>, Pending),
    Answer(Vec<u8>),
}

/// A handle on the control connection, which ends when the last handle is dropped.
#[derive(Clone)]
pub(in crate::connector) struct WorkerChannel {
    requests: mpsc::Sender<Request>,
}

impl WorkerChannel {
    /// The control connection over a websocket, and the future that runs it.
    pub(in crate::connector) fn new(
        sender: Sender,
        receiver: Receiver,
        output: Arc<Output>,
        log: Arc<Log>,
    ) -> (Self, impl Future<Output = Result<(), ControlError>>) {
        let (requests, queue) = mpsc::channel(QUEUE);
        let answers = Answers {
            pending: Mutex::default(),
            changed: Notify::new(),
            unrequested: AtomicU32::new(0),
            output,
            unread: AtomicBool::new(false),
            log,
        };
        (Self { requests }, run(sender, receiver, queue, answers))
    }

    /// A handle that does not keep the control connection open.
    pub(in crate::connector) fn downgrade(&self) -> WeakWorkerChannel {
        WeakWorkerChannel(self.requests.downgrade())
    }

    /// Sends a line of the caller to the worker. The worker's answer goes to standard output.
    pub(in crate::connector) async fn pass(&self, line: Vec<u8>) {
        self.queue(Request::Send(line, Pending::Caller)).await;
    }

    /// Sends a line of the caller to the worker. What `replace` makes of the worker's answer goes to
    /// standard output.
    pub(in crate::connector) async fn pass_and_replace(
        &self,
        line: Vec<u8>,
        replace: impl FnOnce(Vec<u8>) -> Vec<u8> + Send + 'static,
    ) {
        self.queue(Request::Send(line, Pending::Replaced(Box::new(replace))))
            .await;
    }

    /// Answers the caller in the worker's place, after the answers that are still pending.
    pub(in crate::connector) async fn answer(&self, line: Vec<u8>) {
        self.queue(Request::Answer(line)).await;
    }

    /// Sends a line of the connector's own and returns the worker's answer; none if the connection
    /// has ended.
    pub(super) async fn request(&self, line: Vec<u8>) -> Option<Vec<u8>> {
        let (sender, answer) = oneshot::channel();
        self.queue(Request::Send(line, Pending::Task(sender))).await;
        answer.await.ok()
    }

    /// Sends a line of the connector's own. The worker's answer is discarded.
    pub(super) async fn send(&self, line: Vec<u8>) {
        let (sender, _) = oneshot::channel();
        self.queue(Request::Send(line, Pending::Task(sender))).await;
    }

    async fn queue(&self, request: Request) {
        // An error means that the connection has ended. The connector then ends with the reason.
        let _ = self.requests.send(request).await;
    }
}

/// For what may outlive the control connection.
pub(in crate::connector) struct WeakWorkerChannel(mpsc::WeakSender<Request>);

impl WeakWorkerChannel {
    /// None if the last handle was dropped.
    pub(in crate::connector) fn upgrade(&self) -> Option<WorkerChannel> {
        let requests = self.0.upgrade()?;
        Some(WorkerChannel { requests })
    }
}

async fn run(
    mut sender: Sender,
    mut receiver: Receiver,
    mut queue: mpsc::Receiver<Request>,
    answers: Answers,
) -> Result<(), ControlError> {
    let receive = receive(&mut receiver, &answers);
    tokio::pin!(receive);
    tokio::select! {
        result = &mut receive => return result.and(Err(ControlError::Closed)),
        result = send(&mut sender, &mut queue, &answers) => result?,
    }
    // The input has ended. Requests that were sent are still answered, then the connection is closed.
    tokio::select! {
        result = &mut receive => return result,
        _ = timeout(DRAIN_TIMEOUT, answers.all_given()) => {}
    }
    sender.finish().await?;
    match timeout(CLOSE_TIMEOUT, receive).await {
        // The connector requested the end, so each of these is an orderly one.
        Ok(Ok(()) | Err(ControlError::Cut)) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(error),
    }
}

async fn send(
    sender: &mut Sender,
    queue: &mut mpsc::Receiver<Request>,
    answers: &Answers,
) -> Result<(), ControlError> {
    loop {
        let request = tokio::select! {
            request = queue.recv() => request,
            () = sender.control_pending() => {
                sender.send_control().await?;
                continue;
            }
        };
        match request {
            None => return Ok(()),
            Some(Request::Send(mut line, pending)) => {
                lock(&answers.pending).push_back(pending);
                line.push(b'\n');
                sender.send_all(&line).await?;
            }
            Some(Request::Answer(line)) => {
                lock(&answers.pending).push_back(Pending::Answered(line));
                answers.give().await;
            }
        }
    }
}

async fn receive(receiver: &mut Receiver, answers: &Answers) -> Result<(), ControlError> {
    let mut lines = Lines::default();
    loop {
        match receiver.next().await? {
            Received::Data(pieces) => {
                for bytes in pieces.iter() {
                    lines.push(bytes);
                }
                // An answer may contain a ticket or a key.
                receiver.wipe_delivered();
            }
            Received::End => return Ok(()),
            Received::Stopped => return Err(ControlError::Cut),
        }
        while let Some(line) = lines.next() {
            match line {
                Line::Whole(line) => answers.received(line).await?,
                Line::TooLong => return Err(ControlError::TooLong),
            }
        }
        if lines.is_skipping() {
            return Err(ControlError::TooLong);
        }
    }
}

/// Pending answers, in the order of their requests.
struct Answers {
    pending: Mutex<VecDeque<Pending>>,
    changed: Notify,
    /// Lines that the worker sent without a request.
    unrequested: AtomicU32,
    output: Arc<Output>,
    /// The caller has closed its end of standard output.
    unread: AtomicBool,
    log: Arc<Log>,
}

impl Answers {
    /// Takes the worker's next answer. It belongs to the first request without one.
    async fn received(&self, line: Vec<u8>) -> Result<(), ControlError> {
        {
            let mut pending = lock(&self.pending);
            let first = pending
                .iter()
                .position(|entry| !matches!(entry, Pending::Answered(_)));
            match first.and_then(|first| Some((first, pending.remove(first)?))) {
                Some((first, Pending::Caller)) => pending.insert(first, Pending::Answered(line)),
                Some((first, Pending::Replaced(replace))) => {
                    pending.insert(first, Pending::Answered(replace(line)));
                }
                Some((_, Pending::Task(sender))) => {
                    // Ignored if the receiver is gone.
                    let _ = sender.send(line);
                }
                _ => {
                    if self.unrequested.fetch_add(1, Ordering::Relaxed) >= MAX_UNREQUESTED {
                        return Err(ControlError::Unrequested);
                    }
                    self.log
                        .line("the worker sent a line without a request; ignored");
                }
            }
        }
        self.give().await;
        Ok(())
    }

    /// Writes the caller's answers that are next in order.
    async fn give(&self) {
        let mut writer = self.output.lock().await;
        loop {
            let line = {
                let mut pending = lock(&self.pending);
                // The caller receives only its own answers. A pending answer to a task does not
                // delay them.
                let first = pending
                    .iter()
                    .position(|entry| !matches!(entry, Pending::Task(_)));
                match first.and_then(|first| Some((first, pending.remove(first)?))) {
                    Some((_, Pending::Answered(line))) => line,
                    Some((first, other)) => {
                        pending.insert(first, other);
                        break;
                    }
                    None => break,
                }
            };
            if self.unread.load(Ordering::Relaxed) {
                continue;
            }
            // A caller that ends may have sent its last commands without waiting for answers. They
            // still reach the worker.
            if let Err(error) = writer.line(&line).await {
                self.unread.store(true, Ordering::Relaxed);
                self.log
                    .line(format_args!("the caller no longer reads answers: {error}"));
            }
        }
        self.changed.notify_waiters();
    }

    async fn all_given(&self) {
        loop {
            let changed = self.changed.notified();
            if lock(&self.pending).is_empty() {
                return;
            }
            changed.await;
        }
    }
}
