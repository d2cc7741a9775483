//! From the client to the UNIX socket.

use std::io;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::mpsc;

use super::local::Local;
use super::pings::Pings;
use super::{CHUNK, End, Note, Release, drain, pace, released};
use crate::frames::{Incoming, Reader};
use crate::misbehave::Behaviour;
use crate::wire::Wire;

/// The incoming direction of one connection.
pub(super) struct Inbound<'a> {
    pub(super) reader: Reader,
    pub(super) local: Local,
    pub(super) received: u64,
    pub(super) behaviour: &'a Behaviour,
    pub(super) pings: &'a Mutex<Pings>,
}

impl Inbound<'_> {
    pub(super) async fn pump(
        &mut self,
        wire: &mut ReadHalf<Wire>,
        notes: &mpsc::Sender<Note>,
        mut release: Release,
    ) -> End {
        let mut buffer = vec![0; CHUNK];
        loop {
            if let Some(end) = self.frames(notes).await {
                if self.behaviour.swallow_bad_frames && matches!(end, End::Refused(_)) {
                    drain(wire).await;
                }
                return end;
            }
            if self.behaviour.stall_read {
                released(&mut release).await;
            }
            match wire.read(&mut buffer).await {
                Ok(0) => return End::Disconnect,
                Ok(count) => {
                    self.reader.feed(&buffer[..count]);
                    pace(count, self.behaviour.slow_read).await;
                }
                // FIN without close_notify.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return End::Disconnect;
                }
                Err(error) => return End::Failed(error),
            }
        }
    }

    /// Handles all frames that are here; the end, if one of them is.
    async fn frames(&mut self, notes: &mpsc::Sender<Note>) -> Option<End> {
        loop {
            match self.reader.next() {
                Ok(None) => return None,
                Ok(Some(Incoming::Data(payload))) => {
                    self.received += payload.len() as u64;
                    if let Err(error) = self.local.write(payload).await {
                        return Some(End::LocalFailed(error));
                    }
                }
                Ok(Some(Incoming::Ping(payload))) => {
                    let _ = notes.send(Note::Pong(payload)).await;
                }
                Ok(Some(Incoming::Pong(payload))) => {
                    if !self
                        .pings
                        .lock()
                        .is_ok_and(|mut pings| pings.answer(&payload))
                    {
                        return Some(End::Refused("a pong with another payload".to_owned()));
                    }
                }
                Ok(Some(Incoming::Close)) => return Some(End::CloseFrame),
                Err(refusal) => return Some(End::Refused(refusal.to_string())),
            }
        }
    }
}
