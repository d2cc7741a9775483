//! One lane, from its beginning to its end.

use super::super::{Incoming, Outgoing};
use super::Stream;
use crate::lanes::LaneId;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Time limit for an orderly close, from the end of this end's direction.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often an end sends something on a lane that has nothing to carry, within the limit of its silence.
const ALIVE_PART: u32 = 4;

/// Why a lane has ended before its stream.
#[derive(Debug, Error)]
pub(crate) enum LaneError {
    /// It broke while sending.
    #[error("sending failed: {0}")]
    Send(io::Error),
    /// It broke while receiving.
    #[error("receiving failed: {0}")]
    Receive(io::Error),
    /// It has delivered nothing, and its peer would have sent something.
    #[error("nothing was received for {0:?}")]
    Silent(Duration),
    /// It ended without an announcement.
    #[error("it ended without an announcement")]
    Cut,
    /// It ended in order, as it must not before its stream.
    #[error("it ended before its stream")]
    Early,
    /// The peer has sent what it must not send, and the stream has failed.
    #[error("the other node has violated the protocol")]
    Violation,
    /// The stream has failed.
    #[error("the stream has failed")]
    Stream,
}

/// What this end knows of the way to the other end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way<'a> {
    /// The TCP connection of this socket ends there.
    Direct(BorrowedFd<'a>),
    /// There is a proxy. The lane has failed if nothing is received for this time, and each end sends
    /// something more often.
    Proxied(Duration),
}

impl Stream {
    /// Serves a lane until it ends, in order or by a failure. What it may have lost is then sent again
    /// on another lane.
    pub(crate) async fn serve<O: Outgoing, I: Incoming>(
        &self,
        mut outgoing: O,
        mut incoming: I,
        way: Way<'_>,
    ) -> Result<(), LaneError> {
        let silence = match way {
            Way::Direct(_) => None,
            Way::Proxied(silence) => Some(silence),
        };
        let lane = self.begin(way);
        let result = {
            let alive_interval = silence.map(|limit| limit / ALIVE_PART);
            let up = self.send_all(&lane, &mut outgoing, alive_interval);
            let down = self.receive_all(&lane, &mut incoming, silence);
            tokio::pin!(up, down);
            tokio::select! {
                result = &mut up => match result {
                    // The peer closes its direction, too, when the stream is complete for it.
                    Ok(()) => timeout(CLOSE_TIMEOUT, down).await.unwrap_or(Err(LaneError::Cut)),
                    Err(LaneError::Stream) => {
                        // A close with unread data would reset the connection, and the peer could miss
                        // the announcement of the failure.
                        let _ = timeout(CLOSE_TIMEOUT, down).await;
                        Err(LaneError::Stream)
                    }
                    Err(error) => Err(error),
                },
                result = &mut down => match result {
                    Ok(()) => timeout(CLOSE_TIMEOUT, up).await.unwrap_or(Err(LaneError::Early)),
                    Err(LaneError::Violation) => {
                        // It may be the only lane on which the peer can be sent that this end gives up.
                        let _ = timeout(CLOSE_TIMEOUT, up).await;
                        Err(LaneError::Violation)
                    }
                    Err(error) => Err(error),
                },
                () = self.until(|state| state.stopped) => Err(LaneError::Stream),
            }
        };
        match result {
            Err(LaneError::Send(_) | LaneError::Receive(_) | LaneError::Cut)
                if !I::HALF_CLOSE && self.ends().await =>
            {
                self.state().peer_is_complete = true;
                self.changed.notify_waiters();
                Ok(())
            }
            result => result,
        }
    }

    /// Whether the stream ends now, and a lane with it. Without half-close, an end of a lane does not tell
    /// that the stream is complete for the peer: a proxy ends it in the same way for a peer that has died.
    /// Then it does not count before everything was acknowledged, which may be on its way on another lane.
    async fn ends(&self) -> bool {
        if !self.state().sender.has_ended() {
            return false;
        }
        let decided = self.until(|state| state.is_complete() || state.is_over());
        let _ = timeout(CLOSE_TIMEOUT, decided).await;
        self.state().is_complete()
    }
}

/// A lane that is open. Dropping it ends the lane.
pub(super) struct OpenLane<'a> {
    stream: &'a Stream,
    pub(super) id: LaneId,
    pub(super) way: Way<'a>,
    /// Notified when this lane has something to send.
    pub(super) woken: Notify,
    /// The connection does not take more at the moment.
    pub(super) sending: AtomicBool,
}

impl<'a> OpenLane<'a> {
    pub(super) fn new(stream: &'a Stream, id: LaneId, way: Way<'a>) -> Self {
        Self {
            stream,
            id,
            way,
            woken: Notify::new(),
            sending: AtomicBool::new(false),
        }
    }

    /// Whether this lane cannot send anything else at the moment.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.load(Ordering::Relaxed)
    }

    /// Lets it send what is due.
    pub(super) fn wake(&self) {
        self.woken.notify_one();
    }
}

impl Drop for OpenLane<'_> {
    fn drop(&mut self) {
        self.stream.end(self.id);
    }
}
