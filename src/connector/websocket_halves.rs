//! A websocket as the two halves of a relay.

use crate::relay::{ByteStream, Incoming, Outgoing, Received};
use crate::system::lock;
use crate::websocket::{
    Decoder, Encoder, Event, MAX_FRAME, MAX_HEADER, Masking, OpCode, Role, Upgraded,
};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;

/// Bytes that are read at once: one full frame, so that a full frame is decoded where it was read.
const READ: usize = MAX_FRAME + MAX_HEADER;

/// A connection to the target: TLS, or clear TCP on loopback in tests.
pub(super) type Connection = Box<dyn ByteStream>;

/// Splits an upgraded connection. `tls`: whether an end of stream is authenticated. On clear TCP only
/// a close frame is an orderly end.
pub(super) fn split(
    upgraded: Upgraded<Connection>,
    masking: Masking,
    tls: bool,
) -> (Sender, Receiver) {
    let (read, write) = tokio::io::split(upgraded.stream);
    let pong = Arc::new(PongSlot::default());
    let mut decoder = Decoder::new(Role::Client, MAX_FRAME);
    decoder.feed(&upgraded.early);
    let sender = Sender {
        write,
        encoder: Encoder::new(Role::Client, masking),
        control: Vec::new(),
        pong: pong.clone(),
    };
    (
        sender,
        Receiver {
            read,
            decoder,
            pong,
            tls,
        },
    )
}

/// The pending pong. Only the latest ping needs an answer (RFC 6455 §5.5.3), so one slot is enough.
#[derive(Default)]
struct PongSlot {
    payload: Mutex<Option<Vec<u8>>>,
    filled: Notify,
}

impl PongSlot {
    fn put(&self, payload: &[u8]) {
        *lock(&self.payload) = Some(payload.to_vec());
        self.filled.notify_one();
    }

    fn take(&self) -> Option<Vec<u8>> {
        lock(&self.payload).take()
    }
}

/// The half that sends.
pub(super) struct Sender {
    write: WriteHalf<Connection>,
    encoder: Encoder,
    control: Vec<u8>,
    pong: Arc<PongSlot>,
}

impl Sender {
    /// Sends `bytes`, at most [`MAX_FRAME`] of them in a frame.
    pub(super) async fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut frames = Vec::with_capacity(bytes.len() + MAX_HEADER);
        self.encoder
            .encode(OpCode::Binary, bytes, &mut frames)
            .map_err(io::Error::other)?;
        self.write.write_all(&frames).await?;
        self.write.flush().await
    }

    async fn send_control_frame(&mut self, opcode: OpCode, payload: &[u8]) -> io::Result<()> {
        self.control.clear();
        self.encoder
            .encode(opcode, payload, &mut self.control)
            .map_err(io::Error::other)?;
        self.write.write_all(&self.control).await?;
        self.write.flush().await
    }
}

impl Outgoing for Sender {
    const ROOM: usize = MAX_HEADER;
    // With its header, such a frame fills exactly eight TLS records. The longest frame would put its
    // last 14 bytes into a ninth.
    const MAX: usize = MAX_FRAME - MAX_HEADER;

    async fn send(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let start = self
            .encoder
            .encode_in_place(buffer)
            .map_err(io::Error::other)?;
        self.write.write_all(&buffer[start..]).await?;
        self.write.flush().await
    }

    async fn control_pending(&mut self) {
        self.pong.filled.notified().await;
    }

    async fn send_control(&mut self) -> io::Result<()> {
        match self.pong.take() {
            Some(payload) => self.send_control_frame(OpCode::Pong, &payload).await,
            None => Ok(()),
        }
    }

    /// Sends a close frame and leaves the connection open. pveproxy flushes its buffer when it receives
    /// one, and discards the buffer if the connection ends first.
    async fn finish(&mut self) -> io::Result<()> {
        const NORMAL_CLOSURE: [u8; 2] = 1000_u16.to_be_bytes();
        self.send_control_frame(OpCode::Close, &NORMAL_CLOSURE)
            .await
    }
}

/// The half that receives.
pub(super) struct Receiver {
    read: ReadHalf<Connection>,
    decoder: Decoder,
    pong: Arc<PongSlot>,
    tls: bool,
}

/// What to do after an event.
enum Step {
    Deliver,
    Continue,
    Read,
    End,
}

impl Incoming for Receiver {
    /// pveproxy ends the whole connection when the UNIX socket behind it ends.
    const HALF_CLOSE: bool = false;

    async fn next(&mut self) -> io::Result<Received<'_>> {
        loop {
            let event = self
                .decoder
                .next_event()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let step = match event {
                Some(Event::Data { payload: [], .. } | Event::Pong(_)) => Step::Continue,
                Some(Event::Data { .. }) => Step::Deliver,
                Some(Event::Ping(payload)) => {
                    self.pong.put(payload);
                    Step::Continue
                }
                Some(Event::Close { .. }) => Step::End,
                None => Step::Read,
            };
            match step {
                Step::Deliver => return Ok(Received::Data(self.decoder.payload())),
                Step::End => return Ok(Received::End),
                Step::Continue => {}
                Step::Read => match self.read.read(self.decoder.space(READ)).await {
                    Ok(0) => return Ok(self.at_end()),
                    Ok(count) => self.decoder.filled(count),
                    // rustls reports an end without close_notify in this way.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Ok(Received::Stopped);
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }
}

impl Receiver {
    /// Wipes the data that [`next`](Incoming::next) returned last.
    pub(super) fn wipe_delivered(&mut self) {
        self.decoder.wipe_payload();
    }

    /// An end of stream. It is orderly if close_notify announced it and no frame is incomplete.
    fn at_end(&self) -> Received<'_> {
        if self.tls && self.decoder.is_between_messages() {
            Received::End
        } else {
            Received::Stopped
        }
    }
}
