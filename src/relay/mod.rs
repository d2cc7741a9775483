//! Copying between a local socket and a wire, and how each of them ends.
//!
//! Each direction holds one buffer and moves it before it reads the next: a slow reader slows the
//! writer, and nothing grows. What a wire is, and how it frames what it carries, its [`Outgoing`]
//! and [`Incoming`] halves know; between a local socket and a plain TCP socket the kernel moves the
//! data ([`splice()`]).
//!
//! Where the wire has half-close, what travels is what two programs on one UNIX socket would see:
//!
//! | the local program | the wire | at the other end |
//! |---|---|---|
//! | shuts down its writing side, or closes with nothing unread | end of this direction | an end of stream; the other direction goes on |
//! | closes over data that it has not read (`ECONNRESET`), or is gone when more comes (`EPIPE`) | all that it wrote, then cut off | everything, then an error |
//! | shuts down its reading side, and writes on | what comes for it is dropped | nothing |
//! | is killed | as for closing: the kernel closes for it | |
//! | any of these, and this process is killed | cut off | an error |
//!
//! After the local program has closed, the relay waits for the other end as long as it takes: there,
//! somebody may still be reading, and a program that has shut down both of its directions and waits
//! for an answer on another way looks the same from here.

mod local;
mod splice;

pub use local::Local;
pub use splice::{finish_on_close, reset_on_close, splice};

use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::timeout;

/// How long saying goodbye may take to a peer that has ended the connection first.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the one direction may still deliver what was written before the other one failed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// After how many bytes in one go others have their turn. A program that never pauses would keep a
/// task busy for as many operations as the runtime allows, which is many times as much.
const TURN: usize = 256 << 10;

/// How many refused pieces make sure that a program still lives, and has only shut down its reading
/// side: while one goes away, the kernel refuses the first before it shows the hang-up.
const CHECKED_REFUSALS: u8 = 2;

/// A connection that bytes can be read from and written to.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

/// The half of a wire that takes data.
pub trait Outgoing {
    /// Bytes that a buffer keeps free before its payload, for a header.
    const ROOM: usize;
    /// Most payload bytes in one buffer.
    const MAX: usize;
    /// Sends a buffer: [`ROOM`](Self::ROOM) bytes to be used at will, then the payload.
    fn send(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<()>> + Send;
    /// Waits until the connection has a control message of its own to send, such as a pong. The
    /// future may be dropped at any time.
    fn control_pending(&mut self) -> impl Future<Output = ()> + Send;
    /// Sends that control message.
    fn send_control(&mut self) -> impl Future<Output = io::Result<()>> + Send;
    /// Says that nothing more will come, after everything has been sent.
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// The half of a wire that delivers data.
pub trait Incoming {
    /// Whether the end of one direction leaves the other one open, on this wire and at its peer.
    ///
    /// Then each direction ends by itself, and has to be announced: stopping is truncation,
    /// always. Without it, the peer's end is the end of the connection.
    const HALF_CLOSE: bool;
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
    /// The stream stopped without the peer saying so. That is truncation, unless the wire knows no
    /// half-close and we asked for the end.
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
    #[error("sending to the other node failed: {0}")]
    Send(io::Error),
    /// The wire broke while we were receiving.
    #[error("receiving from the other node failed: {0}")]
    Receive(io::Error),
    /// The stream stopped, and neither end had said that it was over.
    #[error("the connection to the other node ended without an end of stream: data may be missing")]
    Truncated,
    /// The peer ended the connection while we were still sending.
    #[error("the other node closed the connection while data was still on its way there")]
    Unsent,
    /// The local program is gone, and did not take all that came for it.
    #[error("the local program closed its socket while data was still on its way to it")]
    Undelivered,
    /// The local socket failed.
    #[error("the local socket failed: {0}")]
    Local(io::Error),
    /// The kernel has no pipe for us.
    #[error("cannot make a pipe to move data through: {0}")]
    Pipe(io::Error),
}

/// How far our own sending has come, for the other direction to judge an end by.
#[derive(Default)]
struct Progress {
    /// A buffer has been taken from the local socket and is not yet on the wire.
    sending: AtomicBool,
    /// The wire has been told that nothing more comes.
    finished: AtomicBool,
    /// Sending has failed.
    failed: AtomicBool,
    /// The local program is gone, and did not take all that came for it.
    undelivered: AtomicBool,
    /// Pieces that the local program has refused, up to [`CHECKED_REFUSALS`].
    refused: AtomicU8,
}

impl Progress {
    /// Judges a piece of data that the local program has refused. What is sent to a program that is
    /// gone was sent in vain, and that is an error; one that only reads no more does not want it.
    fn refused(&self, local: &Local) -> Result<(), RelayError> {
        let refused = self.refused.load(Ordering::Relaxed);
        if refused < CHECKED_REFUSALS {
            self.refused.store(refused + 1, Ordering::Relaxed);
            if local.is_gone() {
                self.undelivered.store(true, Ordering::Relaxed);
                return Err(RelayError::Undelivered);
            }
        }
        Ok(())
    }

    /// Whether the end of the local program's stream may be announced as one: not when it is known
    /// that the program did not take what was sent to it.
    fn may_finish(&self, local: &Local) -> Result<(), RelayError> {
        if self.undelivered.load(Ordering::Relaxed) || local.left_unread() {
            return Err(RelayError::Undelivered);
        }
        Ok(())
    }
}

/// Copies both ways until the connection is over.
///
/// The local side's half-close finishes the wire and leaves the other direction open. The wire's
/// end ends the relay, or on a wire that knows half-close the local program's stream: then the relay
/// is over when both directions have ended. Afterwards the caller ends the local socket as the result
/// says: [`Local::close`] or [`Local::fail`], and drops the wire, which after an error must not look
/// like an end to its peer.
pub async fn relay<O: Outgoing, I: Incoming>(
    local: &Local,
    mut outgoing: O,
    mut incoming: I,
    counters: &Counters,
) -> Result<(), RelayError> {
    let progress = Progress::default();
    let half_close = I::HALF_CLOSE;
    let result = {
        let up = send_all(local, &mut outgoing, half_close, counters, &progress);
        let down = receive_all(local, &mut incoming, counters, &progress);
        if half_close {
            until_both_ended(up, down, pending()).await
        } else {
            until_closed(up, down).await
        }
    };
    if result.is_ok() && !progress.finished.load(Ordering::Relaxed) {
        // A courtesy to a peer that is already done: whether it hears it changes nothing.
        let _ = timeout(CLOSE_TIMEOUT, outgoing.finish()).await;
    }
    result
}

/// Drives both directions of a wire that its peer closes as a whole.
async fn until_closed(
    up: impl Future<Output = Result<(), RelayError>>,
    down: impl Future<Output = Result<(), RelayError>>,
) -> Result<(), RelayError> {
    tokio::pin!(up, down);
    tokio::select! {
        result = &mut down => result,
        result = &mut up => match result {
            // We have said that we are done; the peer may still be talking.
            Ok(()) => down.await,
            Err(error) => {
                // Its last words, if any, are already on their way.
                let _ = timeout(DRAIN_TIMEOUT, down).await;
                Err(error)
            }
        },
    }
}

/// Drives two directions that end each by itself. `broken` is how a wire whose peer has ended its
/// direction shows that it is cut off.
async fn until_both_ended(
    up: impl Future<Output = Result<(), RelayError>>,
    down: impl Future<Output = Result<(), RelayError>>,
    broken: impl Future<Output = RelayError>,
) -> Result<(), RelayError> {
    tokio::pin!(up, down);
    tokio::select! {
        result = &mut down => match result {
            Ok(()) => tokio::select! {
                biased;
                result = up => result,
                error = broken => Err(error),
            },
            Err(RelayError::Undelivered) => {
                // What the local program wrote before it went is still to be sent.
                let _ = timeout(DRAIN_TIMEOUT, up).await;
                Err(RelayError::Undelivered)
            }
            Err(error) => Err(error),
        },
        result = &mut up => match result {
            Ok(()) => down.await,
            Err(RelayError::Send(error)) => {
                let _ = timeout(DRAIN_TIMEOUT, down).await;
                Err(RelayError::Send(error))
            }
            Err(error) => Err(error),
        },
    }
}

async fn send_all<O: Outgoing>(
    local: &Local,
    outgoing: &mut O,
    half_close: bool,
    counters: &Counters,
    progress: &Progress,
) -> Result<(), RelayError> {
    let failed = |error| {
        progress.failed.store(true, Ordering::Relaxed);
        RelayError::Send(error)
    };
    let mut buffer = vec![0; O::ROOM + O::MAX];
    let mut turn = Turn::default();
    loop {
        let count = tokio::select! {
            biased;
            // First, for data that never pauses would never let it speak. It cannot hold the data
            // up in turn: it has nothing more to say until the other direction was polled again.
            () = outgoing.control_pending() => {
                outgoing.send_control().await.map_err(failed)?;
                continue;
            }
            result = local.read(&mut buffer[O::ROOM..]) => result.map_err(RelayError::Local)?,
        };
        if count == 0 {
            if half_close {
                progress.may_finish(local)?;
            }
            outgoing.finish().await.map_err(failed)?;
            // From here on an end without a word is the answer to ours, where a wire has no other.
            progress.finished.store(true, Ordering::Relaxed);
            return Ok(());
        }
        progress.sending.store(true, Ordering::Relaxed);
        outgoing
            .send(&mut buffer[..O::ROOM + count])
            .await
            .map_err(failed)?;
        progress.sending.store(false, Ordering::Relaxed);
        counters.sent.fetch_add(count as u64, Ordering::Relaxed);
        turn.moved(count).await;
    }
}

async fn receive_all<I: Incoming>(
    local: &Local,
    incoming: &mut I,
    counters: &Counters,
    progress: &Progress,
) -> Result<(), RelayError> {
    let mut wanted = true;
    let mut turn = Turn::default();
    loop {
        match incoming.next().await.map_err(RelayError::Receive)? {
            Received::Data(bytes) if wanted => match local.write_all(bytes).await {
                Ok(()) => {
                    counters
                        .received
                        .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    turn.moved(bytes.len()).await;
                }
                Err(error) if !is_refusal(&error) => return Err(RelayError::Local(error)),
                Err(_) => {
                    wanted = false;
                    if I::HALF_CLOSE {
                        progress.refused(local)?;
                    }
                }
            },
            Received::Data(_) if I::HALF_CLOSE => progress.refused(local)?,
            Received::Data(_) => {}
            Received::End if I::HALF_CLOSE => {
                // A stream of which one direction has failed is not to look complete in the other.
                if !progress.failed.load(Ordering::Relaxed) {
                    local.finish();
                }
                return Ok(());
            }
            Received::End if progress.sending.load(Ordering::Relaxed) => {
                return Err(RelayError::Unsent);
            }
            Received::End => return Ok(()),
            Received::Stopped if !I::HALF_CLOSE && progress.finished.load(Ordering::Relaxed) => {
                return Ok(());
            }
            Received::Stopped => return Err(RelayError::Truncated),
        }
    }
}

/// How far a direction has come in its turn.
#[derive(Default)]
struct Turn(usize);

impl Turn {
    /// Counts what was moved, and ends the turn when it was enough.
    async fn moved(&mut self, count: usize) {
        self.0 += count;
        if self.0 >= TURN {
            self.0 = 0;
            yield_now().await;
        }
    }
}

/// Whether the local program reads no more: it only sends, and has shut down its reading side, or it
/// went away. What it does not want must not hold up what it wrote.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}
