//! From the UNIX socket to the client.

use std::io;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::pings::Pings;
use super::{CHUNK, ClientEvent, End, Release, pace, released};
use crate::connection::{Connection, TcpHandle};
use crate::frames;
use crate::misbehave::{Behaviour, FRAME_LIMIT};

/// The outgoing direction of one connection.
pub(super) struct Outbound<'a> {
    pub(super) connection: WriteHalf<Connection>,
    pub(super) local: OwnedReadHalf,
    pub(super) tcp_handle: Option<TcpHandle>,
    pub(super) sent: u64,
    /// The client has sent a close frame.
    pub(super) closed: bool,
    pub(super) behaviour: &'a Behaviour,
    pub(super) pings: &'a Mutex<Pings>,
}

impl Outbound<'_> {
    pub(super) async fn pump(
        &mut self,
        event_receiver: mpsc::Receiver<ClientEvent>,
        release: Release,
    ) -> End {
        self.try_pump(event_receiver, release)
            .await
            .unwrap_or_else(End::Failed)
    }

    async fn try_pump(
        &mut self,
        mut event_receiver: mpsc::Receiver<ClientEvent>,
        mut release: Release,
    ) -> io::Result<End> {
        let mut stalled = self.behaviour.stall_write;
        let mut buffer = vec![0; CHUNK];
        loop {
            tokio::select! {
                biased;
                event = event_receiver.recv() => match event {
                    Some(ClientEvent::Ping(payload)) => {
                        self.connection.write_all(&frames::pong(payload)).await?;
                        self.connection.flush().await?;
                    }
                    Some(ClientEvent::Closed) if self.behaviour.bare_fin => {
                        self.close_frame(!self.behaviour.no_close_frame).await?;
                        return self.send_fin().await;
                    }
                    Some(ClientEvent::Closed) => self.closed = true,
                    Some(ClientEvent::Refused) => {
                        let close = frames::close(CloseCode::Protocol, "refused");
                        self.connection.write_all(&close).await?;
                        self.connection.shutdown().await?;
                        return Ok(End::Local);
                    }
                    None => return Ok(End::Disconnect),
                },
                () = released(&mut release), if stalled => stalled = false,
                count = self.local.read(&mut buffer), if !stalled => {
                    // If the UNIX side closes with unread bytes, the read fails with a reset.
                    let count = count.unwrap_or(0);
                    if count == 0 {
                        return self.close().await;
                    }
                    if let Some(end) = self.send(&buffer[..count]).await? {
                        return Ok(end);
                    }
                    pace(count, self.behaviour.slow_write).await;
                }
            }
        }
    }

    /// Sends the bytes of the UNIX side to the client. Returns `End::Truncated` if a fault ends the
    /// connection there.
    async fn send(&mut self, bytes: &[u8]) -> io::Result<Option<End>> {
        let limit = self.behaviour.small_frames.unwrap_or(FRAME_LIMIT);
        for message in bytes.chunks(limit) {
            if let Some((after, within_frame)) = self.behaviour.truncate {
                let left = usize::try_from(after - self.sent).unwrap_or(usize::MAX);
                if message.len() >= left {
                    self.truncated(&message[..left], within_frame).await?;
                    return self.send_fin().await.map(Some);
                }
            }
            self.message(message).await?;
        }
        self.connection.flush().await?;
        Ok(None)
    }

    async fn message(&mut self, payload: &[u8]) -> io::Result<()> {
        if self.behaviour.ping {
            self.ping().await?;
        }
        if self.behaviour.fragment {
            let (first, rest) = payload.split_at(payload.len() / 3);
            let (second, third) = rest.split_at(rest.len() / 2);
            self.connection
                .write_all(&frames::data(first, true, false))
                .await?;
            self.ping().await?;
            self.connection
                .write_all(&frames::data(second, false, false))
                .await?;
            self.ping().await?;
            self.connection
                .write_all(&frames::data(third, false, true))
                .await?;
        } else {
            self.connection
                .write_all(&frames::data(payload, true, true))
                .await?;
        }
        self.sent += payload.len() as u64;
        Ok(())
    }

    /// Sends the last payload before the end: as a complete frame, or as the beginning of a longer
    /// frame.
    async fn truncated(&mut self, payload: &[u8], within_frame: bool) -> io::Result<()> {
        if !within_frame {
            return self.message(payload).await;
        }
        let mut longer = payload.to_vec();
        longer.push(0);
        let frame = frames::data(&longer, true, true);
        self.connection.write_all(&frame[..frame.len() - 1]).await?;
        self.sent += payload.len() as u64;
        Ok(())
    }

    async fn ping(&mut self) -> io::Result<()> {
        let payload = self
            .pings
            .lock()
            .map(|mut pings| pings.next())
            .unwrap_or_default();
        self.connection.write_all(&frames::ping(&payload)).await
    }

    /// Closes the connection after the UNIX side has closed: a close frame if required, then
    /// close_notify and FIN.
    async fn close(&mut self) -> io::Result<End> {
        let reply = self.closed && !self.behaviour.no_close_frame;
        self.close_frame(reply || self.behaviour.close_frame)
            .await?;
        self.connection.shutdown().await?;
        Ok(End::Local)
    }

    async fn close_frame(&mut self, required: bool) -> io::Result<()> {
        if required {
            self.connection
                .write_all(&frames::close(CloseCode::Normal, ""))
                .await?;
        }
        Ok(())
    }

    /// Sends FIN without close_notify.
    async fn send_fin(&mut self) -> io::Result<End> {
        self.connection.flush().await?;
        if let Some(tcp_handle) = &self.tcp_handle {
            tcp_handle.send_fin();
        }
        Ok(End::Truncated)
    }
}
