//! Copying between a local socket and a connection to the other node, and how each of them ends.
//!
//! Each direction holds one buffer and sends it before it reads the next: a slow reader slows the
//! writer, and no buffer grows. The [`Outgoing`] and [`Incoming`] halves of a connection define its
//! framing. Between a local socket and a plain TCP socket the kernel moves the data ([`splice()`]).
//!
//! On a connection with half-close, both programs see what they would see on one UNIX socket:
//!
//! | the local program | the connection | the program at the other end |
//! |---|---|---|
//! | shuts down its writing side, or closes with nothing unread | end of this direction | an end of stream; the other direction continues |
//! | closes with unread data (`ECONNRESET`), or is gone when more data arrives (`EPIPE`) | everything that it wrote, then cut off | everything, then an error |
//! | shuts down its reading side, and continues to write | data for it is dropped | nothing |
//! | is killed | as for closing: the kernel closes its socket | |
//! | any of these, and this process is killed | cut off | an error |
//!
//! After the local program has closed, the relay waits for the other end without a limit: the program
//! there may still be reading. A program that has shut down both directions and waits for an answer
//! on another socket looks the same.

mod layout;
mod local;
mod pieces;
mod pipe;
mod splice;
mod stream;

pub use local::Local;
pub use pieces::Pieces;
pub use splice::{finish_on_close, reset_on_close, splice};
pub(crate) use stream::{INITIAL_WINDOW, LaneError, PipePool, Stream, StreamCompression, Way};

use crate::lanes::LaneCounters;
use layout::Layout;
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::timeout;

/// Time limit for an orderly close to a peer that has ended the connection first.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one direction may still deliver earlier data after the other one has failed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes after which a task yields to others. Without it, a program that never pauses would keep a task
/// busy for as many operations as the runtime allows, which is many times as much.
const TURN: usize = 256 << 10;

/// Refused pieces after which the local program is taken to be alive, with only its reading side shut
/// down. While a program closes, the kernel refuses the first piece before it reports the hang-up, so
/// the check has to be repeated once.
const CHECKED_REFUSALS: u8 = 2;

/// A connection that bytes can be read from and written to.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

/// The half of a connection that sends.
pub trait Outgoing {
    /// Bytes that a piece of a buffer keeps free in front of its payload, for a header.
    const ROOM: usize;
    /// Most payload bytes in a piece.
    const MAX: usize;
    /// Bytes that a piece keeps free after its payload.
    const AFTER: usize = 0;
    /// The number of pieces in a buffer, at most eight.
    const PIECES: usize = 1;
    /// Sends a buffer of one or more pieces, of which only the last one may have less than
    /// [`MAX`](Self::MAX) payload bytes. Everything around the payload may be overwritten.
    fn send(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<()>> + Send;
    /// Sends a header and a payload, together at most [`PIECES`](Self::PIECES) times [`MAX`](Self::MAX)
    /// bytes. The payload stays as it is. `buffer`: memory that each call may use, empty at first.
    fn send_from(
        &mut self,
        header: &[u8],
        payload: &[u8],
        buffer: &mut Vec<u8>,
    ) -> impl Future<Output = io::Result<()>> + Send {
        let layout = layout::<Self>(header.len());
        buffer.resize(layout.size(), 0);
        buffer[layout.reserved()].copy_from_slice(header);
        layout.fill(buffer, payload);
        self.send(&mut buffer[..layout.used(payload.len())])
    }
    /// Waits until the connection has a control message of its own to send, such as a pong. The
    /// future may be dropped at any time.
    fn control_pending(&mut self) -> impl Future<Output = ()> + Send;
    /// Sends that control message.
    fn send_control(&mut self) -> impl Future<Output = io::Result<()>> + Send;
    /// Ends this direction, after everything has been sent.
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// The buffer of a connection, with so many bytes in front of the payload.
fn layout<O: Outgoing + ?Sized>(reserved: usize) -> Layout {
    Layout {
        before: O::ROOM,
        payload: O::MAX,
        after: O::AFTER,
        pieces: O::PIECES,
        reserved,
    }
}

/// The half of a connection that receives.
pub trait Incoming {
    /// Whether the end of one direction leaves the other one open, on this connection and at its peer.
    ///
    /// If so, each direction ends separately, and an end that is not announced is always truncation.
    /// If not, the peer's end is the end of the connection.
    const HALF_CLOSE: bool;
    /// The next bytes, or how the stream ended.
    fn next(&mut self) -> impl Future<Output = io::Result<Received<'_>>> + Send;
}

/// What a connection delivers.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// Bytes, at least one.
    Data(Pieces<'a>),
    /// The peer has ended this direction.
    End,
    /// The stream stopped and the peer did not announce it. That is truncation, unless the connection has
    /// no half-close and this end has requested the end.
    Stopped,
}

/// Bytes moved.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the local socket to the connection.
    pub sent: AtomicU64,
    /// From the connection to the local socket.
    pub received: AtomicU64,
    /// What lanes have done; nothing if the connection is one.
    pub(crate) lanes: LaneCounters,
}

impl Counters {
    /// Bytes sent and received.
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
    /// The connection broke while sending.
    #[error("sending to the other node failed: {0}")]
    Send(io::Error),
    /// The connection broke while receiving.
    #[error("receiving from the other node failed: {0}")]
    Receive(io::Error),
    /// The stream stopped without an announced end.
    #[error("the connection to the other node ended without an end of stream: data may be missing")]
    Truncated,
    /// The peer ended the connection before everything was sent.
    #[error("the other node closed the connection while data was still on its way there")]
    Unsent,
    /// The local program closed its socket before it had read everything.
    #[error("the local program closed its socket while data was still on its way to it")]
    Undelivered,
    /// The local socket failed.
    #[error("the local socket failed: {0}")]
    Local(io::Error),
    /// The other node has given up the stream.
    #[error("the other node has given up the stream: data may be missing")]
    Aborted,
    /// The other node has sent what it must not send.
    #[error("the other node has sent {0}")]
    Protocol(String),
    /// The kernel provides no pipe, or does not return what is in one.
    #[error("cannot move data through a pipe: {0}")]
    Pipe(io::Error),
}

/// How far sending has come. The other direction judges an end by it.
#[derive(Default)]
struct Progress {
    /// A buffer was read from the local socket and is not sent yet.
    sending: AtomicBool,
    /// The end of this direction was sent.
    finished: AtomicBool,
    /// Sending has failed.
    failed: AtomicBool,
    /// The local program closed its socket before it had read everything.
    undelivered: AtomicBool,
    /// Pieces that the local program refused, at most [`CHECKED_REFUSALS`].
    refused: AtomicU8,
}

impl Progress {
    /// Judges a piece of data that the local program refused. It is an error if the program is gone, and
    /// none if the program has only shut down its reading side.
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

    /// Checks that the end of the local program's stream may be announced as an orderly one: not if the
    /// program closed its socket before it had read everything.
    fn may_finish(&self, local: &Local) -> Result<(), RelayError> {
        if self.undelivered.load(Ordering::Relaxed) || local.left_unread() {
            return Err(RelayError::Undelivered);
        }
        Ok(())
    }
}

/// Copies both ways until the connection is over.
///
/// The half-close of the local program finishes the connection's direction and leaves the other one
/// open. The end of the connection ends the relay. With half-close it ends only the local program's
/// stream, and the relay ends when both directions have ended. Afterwards the caller ends the local
/// socket according to the result, by [`Local::close`] or [`Local::fail`], and drops the connection.
/// After an error that must not look like an orderly end to its peer.
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
        // The peer has already ended the connection, so a failure changes nothing.
        let _ = timeout(CLOSE_TIMEOUT, outgoing.finish()).await;
    }
    result
}

/// Drives both directions of a connection that its peer closes as a whole.
async fn until_closed(
    up: impl Future<Output = Result<(), RelayError>>,
    down: impl Future<Output = Result<(), RelayError>>,
) -> Result<(), RelayError> {
    tokio::pin!(up, down);
    tokio::select! {
        result = &mut down => result,
        result = &mut up => match result {
            // This direction has ended. The peer may still be sending.
            Ok(()) => down.await,
            Err(error) => {
                // Data that the peer sent before may still be on its way.
                let _ = timeout(DRAIN_TIMEOUT, down).await;
                Err(error)
            }
        },
    }
}

/// Drives two directions that end separately. `broken` completes when a connection whose peer has
/// ended its direction is cut off.
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
                // Data that the local program wrote before it closed is still sent.
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
    let layout = layout::<O>(0);
    let mut buffer = vec![0; layout.size()];
    let mut turn = Turn::default();
    loop {
        let count = tokio::select! {
            biased;
            // First, because data that never pauses would keep control messages from being sent. They
            // cannot delay the data in turn: the next one arrives by the other direction.
            () = outgoing.control_pending() => {
                outgoing.send_control().await.map_err(failed)?;
                continue;
            }
            result = local.read_around(&mut buffer, layout) => result.map_err(RelayError::Local)?,
        };
        if count == 0 {
            if half_close {
                progress.may_finish(local)?;
            }
            outgoing.finish().await.map_err(failed)?;
            // From now on an end that is not announced is the answer to this one, on a connection that
            // has no other.
            progress.finished.store(true, Ordering::Relaxed);
            return Ok(());
        }
        progress.sending.store(true, Ordering::Relaxed);
        outgoing
            .send(&mut buffer[..layout.used(count)])
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
            Received::Data(pieces) if wanted => match local.write_pieces(pieces).await {
                Ok(()) => {
                    let count = pieces.bytes();
                    counters.received.fetch_add(count as u64, Ordering::Relaxed);
                    turn.moved(count).await;
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
                // If one direction of a stream has failed, the other must not look complete.
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

/// Bytes that a direction has moved since it last yielded.
#[derive(Default)]
struct Turn(usize);

impl Turn {
    /// Counts moved bytes, and yields after [`TURN`] of them.
    async fn moved(&mut self, count: usize) {
        self.0 += count;
        if self.0 >= TURN {
            self.0 = 0;
            yield_now().await;
        }
    }
}

/// Whether the local program does not read any more: it has shut down its reading side, or it is gone.
/// Data for it must not delay the data that it wrote.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}
