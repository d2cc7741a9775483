//! From the UNIX socket to the client.

use std::io;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::pings::Pings;
use super::{CHUNK, End, Note, Release, pace, released};
use crate::frames;
use crate::misbehave::{Behaviour, FRAME_LIMIT};
use crate::wire::{Scissors, Wire};

/// The outgoing direction of one connection.
pub(super) struct Outbound<'a> {
    pub(super) wire: WriteHalf<Wire>,
    pub(super) local: OwnedReadHalf,
    pub(super) scissors: Option<Scissors>,
    pub(super) sent: u64,
    /// The client has sent its close frame.
    pub(super) closed: bool,
    pub(super) behaviour: &'a Behaviour,
    pub(super) pings: &'a Mutex<Pings>,
}

impl Outbound<'_> {
    pub(super) async fn pump(&mut self, noted: mpsc::Receiver<Note>, release: Release) -> End {
        self.try_pump(noted, release)
            .await
            .unwrap_or_else(End::Failed)
    }

    async fn try_pump(
        &mut self,
        mut noted: mpsc::Receiver<Note>,
        mut release: Release,
    ) -> io::Result<End> {
        let mut stalled = self.behaviour.stall_write;
        let mut buffer = vec![0; CHUNK];
        loop {
            tokio::select! {
                biased;
                note = noted.recv() => match note {
                    Some(Note::Pong(payload)) => {
                        self.wire.write_all(&frames::pong(payload)).await?;
                        self.wire.flush().await?;
                    }
                    Some(Note::Closed) if self.behaviour.bare_fin => {
                        self.close_frame(!self.behaviour.no_close_frame).await?;
                        return self.cut().await;
                    }
                    Some(Note::Closed) => self.closed = true,
                    Some(Note::Refused) => {
                        let close = frames::close(CloseCode::Protocol, "refused");
                        self.wire.write_all(&close).await?;
                        self.wire.shutdown().await?;
                        return Ok(End::Local);
                    }
                    None => return Ok(End::Disconnect),
                },
                () = released(&mut release), if stalled => stalled = false,
                count = self.local.read(&mut buffer), if !stalled => {
                    // A peer that closed with something unread shows as a reset.
                    let count = count.unwrap_or(0);
                    if count == 0 {
                        return self.goodbye().await;
                    }
                    if let Some(end) = self.pass(&buffer[..count]).await? {
                        return Ok(end);
                    }
                    pace(count, self.behaviour.slow_write).await;
                }
            }
        }
    }

    /// Sends what the UNIX side said; the end, if it is to be cut there.
    async fn pass(&mut self, bytes: &[u8]) -> io::Result<Option<End>> {
        let limit = self.behaviour.small_frames.unwrap_or(FRAME_LIMIT);
        for message in bytes.chunks(limit) {
            if let Some((after, within_frame)) = self.behaviour.truncate {
                let left = usize::try_from(after - self.sent).unwrap_or(usize::MAX);
                if message.len() >= left {
                    self.truncated(&message[..left], within_frame).await?;
                    return self.cut().await.map(Some);
                }
            }
            self.message(message).await?;
        }
        self.wire.flush().await?;
        Ok(None)
    }

    async fn message(&mut self, payload: &[u8]) -> io::Result<()> {
        if self.behaviour.ping {
            self.ping().await?;
        }
        if self.behaviour.fragment {
            let (first, rest) = payload.split_at(payload.len() / 3);
            let (second, third) = rest.split_at(rest.len() / 2);
            self.wire
                .write_all(&frames::data(first, true, false))
                .await?;
            self.ping().await?;
            self.wire
                .write_all(&frames::data(second, false, false))
                .await?;
            self.ping().await?;
            self.wire
                .write_all(&frames::data(third, false, true))
                .await?;
        } else {
            self.wire
                .write_all(&frames::data(payload, true, true))
                .await?;
        }
        self.sent += payload.len() as u64;
        Ok(())
    }

    /// The last payload before a cut: as a whole frame, or as the beginning of a longer one.
    async fn truncated(&mut self, payload: &[u8], within_frame: bool) -> io::Result<()> {
        if !within_frame {
            return self.message(payload).await;
        }
        let mut promised = payload.to_vec();
        promised.push(0);
        let frame = frames::data(&promised, true, true);
        self.wire.write_all(&frame[..frame.len() - 1]).await?;
        self.sent += payload.len() as u64;
        Ok(())
    }

    async fn ping(&mut self) -> io::Result<()> {
        let payload = self
            .pings
            .lock()
            .map(|mut pings| pings.next())
            .unwrap_or_default();
        self.wire.write_all(&frames::ping(&payload)).await
    }

    /// The UNIX side has ended: close_notify and FIN, with a close frame where one is due.
    async fn goodbye(&mut self) -> io::Result<End> {
        let reply = self.closed && !self.behaviour.no_close_frame;
        self.close_frame(reply || self.behaviour.close_frame)
            .await?;
        self.wire.shutdown().await?;
        Ok(End::Local)
    }

    async fn close_frame(&mut self, due: bool) -> io::Result<()> {
        if due {
            self.wire
                .write_all(&frames::close(CloseCode::Normal, ""))
                .await?;
        }
        Ok(())
    }

    /// FIN beneath TLS.
    async fn cut(&mut self) -> io::Result<End> {
        self.wire.flush().await?;
        if let Some(scissors) = &self.scissors {
            scissors.cut();
        }
        Ok(End::Truncated)
    }
}
