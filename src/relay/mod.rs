//! Copying between a local socket and a wire, and how each of them ends.
//!
//! Each direction holds one buffer and moves it before it reads the next: a slow reader slows the
//! writer, and nothing grows. What a wire is, and how it frames what it carries, its [`Outgoing`]
//! and [`Incoming`] halves know.

pub(crate) mod liveness;
mod local;
pub(crate) mod readiness;

pub use local::Local;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::time::timeout;

/// How long saying goodbye may take to a peer that has ended the connection first.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long a wire that takes no more data may still deliver what its peer sent before it ended.
const AFTER_WRITE_ERROR: Duration = Duration::from_secs(10);

/// The half of a wire that takes data.
pub trait Outgoing {
    /// Bytes that a buffer keeps free before its payload, for a header.
    const ROOM: usize;
    /// Most payload bytes in one buffer.
    const MAX: usize;
    /// Sends a buffer: [`ROOM`](Self::ROOM) bytes to be used at will, then the payload.
    fn send(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<()>> + Send;
    /// Waits until the wire itself has something to say, such as a pong. It may be dropped at any
    /// time.
    fn wants_to_speak(&mut self) -> impl Future<Output = ()> + Send;
    /// Says it.
    fn speak(&mut self) -> impl Future<Output = io::Result<()>> + Send;
    /// Says that nothing more will come, after everything has been sent.
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// The half of a wire that delivers data.
pub trait Incoming {
    /// The next bytes, or how the stream ended.
    fn next(&mut self) -> impl Future<Output = io::Result<Received<'_>>> + Send;
}

/// What a wire delivers.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// Bytes; never none.
    Data(&'a [u8]),
    /// The peer said that nothing more comes.
    End,
    /// The stream stopped without the peer saying so. That is truncation, unless we asked for the
    /// end.
    Stopped,
}

/// Bytes moved.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the local socket to the wire.
    pub sent: AtomicU64,
    /// From the wire to the local socket.
    pub received: AtomicU64,
}

impl Counters {
    /// Sent and received.
    pub fn bytes(&self) -> (u64, u64) {
        (
            self.sent.load(Ordering::Relaxed),
            self.received.load(Ordering::Relaxed),
        )
    }
}

/// Why a relay failed.
#[derive(Debug, Error)]
pub enum RelayError {
    /// The wire broke while we were sending.
    #[error("sending to the target failed: {0}")]
    Send(io::Error),
    /// The wire broke while we were receiving.
    #[error("receiving from the target failed: {0}")]
    Receive(io::Error),
    /// The stream stopped, and neither end had said that it was over.
    #[error("the connection to the target ended without an end of stream: data may be missing")]
    Truncated,
    /// The peer ended the connection while we were still sending.
    #[error("the target closed the connection while data was still on its way there")]
    Unsent,
    /// The local socket failed.
    #[error("the local socket failed: {0}")]
    Local(io::Error),
}

/// How far our own sending has come, for the other direction to judge an end by.
#[derive(Default)]
struct Progress {
    /// A buffer has been taken from the local socket and is not yet on the wire.
    sending: AtomicBool,
    /// The wire has been told that nothing more comes.
    finished: AtomicBool,
}

/// Copies both ways until the connection is over.
///
/// The local side's half-close finishes the wire and leaves the other direction open. The wire's
/// end ends the relay. Afterwards the caller ends the local socket as the result says:
/// [`Local::close`] or [`Local::fail`].
pub async fn relay<O: Outgoing, I: Incoming>(
    local: &Local,
    mut outgoing: O,
    mut incoming: I,
    counters: &Counters,
) -> Result<(), RelayError> {
    let progress = Progress::default();
    let result = {
        let up = send_all(local, &mut outgoing, counters, &progress);
        let down = receive_all(local, &mut incoming, counters, &progress);
        tokio::pin!(up, down);
        tokio::select! {
            result = &mut down => result,
            result = &mut up => match result {
                // We have said that we are done; the peer may still be talking.
                Ok(()) => down.await,
                Err(error) => {
                    // Its last words, if any, are already on their way.
                    let _ = timeout(AFTER_WRITE_ERROR, down).await;
                    Err(error)
                }
            },
        }
    };
    if result.is_ok() && !progress.finished.load(Ordering::Relaxed) {
        // A courtesy to a peer that is already done: whether it hears it changes nothing.
        let _ = timeout(FAREWELL, outgoing.finish()).await;
    }
    result
}

async fn send_all<O: Outgoing>(
    local: &Local,
    outgoing: &mut O,
    counters: &Counters,
    progress: &Progress,
) -> Result<(), RelayError> {
    let mut buffer = vec![0; O::ROOM + O::MAX];
    loop {
        let count = tokio::select! {
            biased;
            // First, for data that never pauses would never let it speak. It cannot hold the data
            // up in turn: it has nothing more to say until the other direction was polled again.
            () = outgoing.wants_to_speak() => {
                outgoing.speak().await.map_err(RelayError::Send)?;
                continue;
            }
            result = local.read(&mut buffer[O::ROOM..]) => result.map_err(RelayError::Local)?,
        };
        if count == 0 {
            outgoing.finish().await.map_err(RelayError::Send)?;
            // From here on an end without a word is the answer to ours, not truncation.
            progress.finished.store(true, Ordering::Relaxed);
            return Ok(());
        }
        progress.sending.store(true, Ordering::Relaxed);
        outgoing
            .send(&mut buffer[..O::ROOM + count])
            .await
            .map_err(RelayError::Send)?;
        progress.sending.store(false, Ordering::Relaxed);
        counters.sent.fetch_add(count as u64, Ordering::Relaxed);
    }
}

async fn receive_all<I: Incoming>(
    local: &Local,
    incoming: &mut I,
    counters: &Counters,
    progress: &Progress,
) -> Result<(), RelayError> {
    let mut wanted = true;
    loop {
        match incoming.next().await.map_err(RelayError::Receive)? {
            Received::Data(bytes) if wanted => match local.write_all(bytes).await {
                Ok(()) => {
                    counters
                        .received
                        .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
                // A program that only sends has shut down its reading side. What it does not want
                // must not hold up the rest.
                Err(error) if unwanted(&error) => wanted = false,
                Err(error) => return Err(RelayError::Local(error)),
            },
            Received::Data(_) => {}
            Received::End if progress.sending.load(Ordering::Relaxed) => {
                return Err(RelayError::Unsent);
            }
            Received::End => return Ok(()),
            Received::Stopped if progress.finished.load(Ordering::Relaxed) => return Ok(()),
            Received::Stopped => return Err(RelayError::Truncated),
        }
    }
}

/// Whether the local program reads no more: it has shut down its reading side, or it went away, in
/// which case what it wrote before is still to be sent.
fn unwanted(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}
