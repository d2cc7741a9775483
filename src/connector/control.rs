//! The control connection: lines to the worker, its answers in the same order.

use super::wire::{Receiver, Sender};
use crate::process::{Line, Lines, Log, Output};
use crate::relay::{Incoming, Outgoing, Received};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

/// Commands that may wait to be sent. Whoever has more waits with them.
const QUEUE: usize = 64;

/// How long the worker may still answer after our input has ended.
const DRAIN: Duration = Duration::from_secs(10);

/// How long the peer may take to go after our close frame.
const FAREWELL: Duration = Duration::from_secs(10);

/// Why the control connection is over.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Sending or receiving failed.
    #[error("the control connection failed: {0}")]
    Io(#[from] io::Error),
    /// It ended, and we had not asked for it.
    #[error("the target closed the control connection: the worker behind it has ended")]
    Closed,
    /// It ended without a word.
    #[error("the control connection was cut off")]
    Cut,
    /// The worker sends no lines.
    #[error("the worker's answer is longer than 1 MiB")]
    TooLong,
}

/// Who waits for an answer.
enum Waiting {
    /// Whoever writes our standard input.
    Caller,
    /// One of our own connections.
    Ours(oneshot::Sender<Vec<u8>>),
    /// Nobody: this answer is ours, and goes out when those before it have.
    Answered(Vec<u8>),
}

enum Request {
    Send(Vec<u8>, Waiting),
    Answer(Vec<u8>),
}

/// The right to use the control connection. It ends when the last of these is gone.
#[derive(Clone)]
pub(super) struct Control {
    requests: mpsc::Sender<Request>,
}

impl Control {
    /// The control connection over a websocket, and the task that runs it.
    pub(super) fn new(
        sender: Sender,
        receiver: Receiver,
        output: Arc<Output>,
        log: Arc<Log>,
    ) -> (Self, impl Future<Output = Result<(), ControlError>>) {
        let (requests, queue) = mpsc::channel(QUEUE);
        let answers = Answers {
            waiting: Mutex::default(),
            changed: Notify::new(),
            output,
            log,
        };
        (Self { requests }, run(sender, receiver, queue, answers))
    }

    /// Passes a line of the caller's on; its answer goes to standard output.
    pub(super) async fn pass(&self, line: Vec<u8>) {
        self.request(Request::Send(line, Waiting::Caller)).await;
    }

    /// Answers the caller, after the answers that it is still waiting for.
    pub(super) async fn answer(&self, line: Vec<u8>) {
        self.request(Request::Answer(line)).await;
    }

    /// Asks the worker ourselves. None when the connection is over.
    pub(super) async fn ask(&self, line: Vec<u8>) -> Option<Vec<u8>> {
        let (sender, answer) = oneshot::channel();
        self.request(Request::Send(line, Waiting::Ours(sender)))
            .await;
        answer.await.ok()
    }

    async fn request(&self, request: Request) {
        // When nobody takes it, the connection is over, and the connector is ending with the
        // reason.
        let _ = self.requests.send(request).await;
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
    // Our input has ended. What was asked is answered, then the peer hears that we are done.
    tokio::select! {
        result = &mut receive => return result,
        _ = timeout(DRAIN, answers.all_given()) => {}
    }
    sender.finish().await?;
    match timeout(FAREWELL, receive).await {
        // However it goes now, it goes because we asked.
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
            () = sender.wants_to_speak() => {
                sender.speak().await?;
                continue;
            }
        };
        match request {
            None => return Ok(()),
            Some(Request::Send(mut line, waiting)) => {
                answers.lock().push_back(waiting);
                line.push(b'\n');
                sender.send_all(&line).await?;
            }
            Some(Request::Answer(line)) => {
                answers.lock().push_back(Waiting::Answered(line));
                answers.give().await?;
            }
        }
    }
}

async fn receive(receiver: &mut Receiver, answers: &Answers) -> Result<(), ControlError> {
    let mut lines = Lines::default();
    loop {
        match receiver.next().await? {
            Received::Data(bytes) => lines.push(bytes),
            Received::End => return Ok(()),
            Received::Stopped => return Err(ControlError::Cut),
        }
        while let Some(line) = lines.next() {
            match line {
                Line::Whole(line) => answers.arrived(line).await?,
                Line::TooLong => return Err(ControlError::TooLong),
            }
        }
        if lines.is_skipping() {
            return Err(ControlError::TooLong);
        }
    }
}

/// Answers, in the order in which they were asked for.
struct Answers {
    waiting: Mutex<VecDeque<Waiting>>,
    changed: Notify,
    output: Arc<Output>,
    log: Arc<Log>,
}

impl Answers {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker's next answer: it belongs to the first who waits for one.
    async fn arrived(&self, line: Vec<u8>) -> Result<(), ControlError> {
        {
            let mut waiting = self.lock();
            let first = waiting
                .iter()
                .position(|entry| !matches!(entry, Waiting::Answered(_)));
            match first.and_then(|first| Some((first, waiting.remove(first)?))) {
                Some((first, Waiting::Caller)) => waiting.insert(first, Waiting::Answered(line)),
                Some((_, Waiting::Ours(sender))) => {
                    // Who no longer waits does not need it.
                    let _ = sender.send(line);
                }
                _ => self
                    .log
                    .line("the worker sent a line that nobody asked for; ignored"),
            }
        }
        self.give().await
    }

    /// Writes the answers that are next.
    async fn give(&self) -> Result<(), ControlError> {
        let mut writer = self.output.lock().await;
        loop {
            let line = {
                let mut waiting = self.lock();
                // The caller sees only its own answers: those of ours that are still to come hold
                // none of them up.
                let first = waiting
                    .iter()
                    .position(|entry| !matches!(entry, Waiting::Ours(_)));
                match first.and_then(|first| Some((first, waiting.remove(first)?))) {
                    Some((_, Waiting::Answered(line))) => line,
                    Some((first, other)) => {
                        waiting.insert(first, other);
                        break;
                    }
                    None => break,
                }
            };
            writer.line(&line).await?;
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn all_given(&self) {
        loop {
            let changed = self.changed.notified();
            if self.lock().is_empty() {
                return;
            }
            changed.await;
        }
    }
}
