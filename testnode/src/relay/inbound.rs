//! From the client to the UNIX socket.

use std::io;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::mpsc;

use super::local::Local;
use super::pings::Pings;
use super::{CHUNK, ClientEvent, End, Release, drain, pace, released};
use crate::connection::Connection;
use crate::frames::{Incoming, Reader};
use crate::misbehave::Behaviour;

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
        connection: &mut ReadHalf<Connection>,
        event_sender: &mpsc::Sender<ClientEvent>,
        mut release: Release,
    ) -> End {
        let mut buffer = vec![0; CHUNK];
        loop {
            if let Some(end) = self.frames(event_sender).await {
                if self.behaviour.swallow_bad_frames && matches!(end, End::Refused(_)) {
                    drain(connection).await;
                }
                return end;
            }
            if self.behaviour.stall_read {
                released(&mut release).await;
            }
            match connection.read(&mut buffer).await {
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

    /// Handles all frames that have arrived. Returns how the connection ended, if one of them ends
    /// it.
    async fn frames(&mut self, event_sender: &mpsc::Sender<ClientEvent>) -> Option<End> {
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
                    let _ = event_sender.send(ClientEvent::Ping(payload)).await;
                }
                Ok(Some(Incoming::Pong(payload))) => {
                    if !self
                        .pings
                        .lock()
                        .is_ok_and(|mut pings| pings.accept_pong(&payload))
                    {
                        return Some(End::Refused("a pong has the wrong payload".to_owned()));
                    }
                }
                Ok(Some(Incoming::Close)) => return Some(End::CloseFrame),
                Err(refusal) => return Some(End::Refused(refusal.to_string())),
            }
        }
    }
}
