//! A websocket as the two halves of a relay.

use crate::relay::{ByteStream, Incoming, Outgoing, Pieces, Received};
use crate::system::lock;
use crate::websocket::{
    Decoder, Encoder, Event, MAX_FRAME, MAX_HEADER, Masking, OpCode, Role, Upgraded,
};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};

/// Bytes that are read at once: one full frame, so that a full frame is decoded where it was read.
const READ: usize = MAX_FRAME + MAX_HEADER;

/// The payload of a ping. It has no meaning: pongs are not evaluated, because pveproxy answers late
/// when it is busy.
const PING: &[u8] = b"idle";

/// A connection to the target: TLS, or clear TCP on loopback in tests.
pub(super) type Connection = Box<dyn ByteStream>;

/// Splits an upgraded connection. `tls`: whether an end of stream is authenticated. On clear TCP only
/// a close frame is an orderly end. `ping_interval`: the time without a sent frame after which a ping
/// is sent.
pub(super) fn split(
    upgraded: Upgraded<Connection>,
    masking: Masking,
    tls: bool,
    ping_interval: Duration,
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
        idle: IdleTimer::new(ping_interval),
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

/// When the next ping is due: an interval after the last sent frame.
struct IdleTimer {
    interval: Duration,
    /// When the last frame was sent.
    sent: Instant,
    /// Set anew only after it has ended, because setting it for each frame would cost more.
    timer: Pin<Box<Sleep>>,
}

impl IdleTimer {
    fn new(interval: Duration) -> Self {
        Self {
            interval,
            sent: Instant::now(),
            timer: Box::pin(sleep(interval)),
        }
    }

    fn is_due(&self) -> bool {
        self.sent.elapsed() >= self.interval
    }

    /// Waits until a ping is due.
    async fn due(&mut self) {
        loop {
            self.timer.as_mut().await;
            if self.is_due() {
                return;
            }
            self.timer.as_mut().reset(self.sent + self.interval);
        }
    }
}

/// The half that sends.
pub(super) struct Sender {
    write: WriteHalf<Connection>,
    encoder: Encoder,
    control: Vec<u8>,
    pong: Arc<PongSlot>,
    idle: IdleTimer,
}

impl Sender {
    /// Sends `bytes`, at most [`MAX_FRAME`] of them in a frame.
    pub(super) async fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut frames = Vec::with_capacity(bytes.len() + MAX_HEADER);
        self.encoder
            .encode(OpCode::Binary, bytes, &mut frames)
            .map_err(io::Error::other)?;
        self.write.write_all(&frames).await?;
        self.flush().await
    }

    async fn send_control_frame(&mut self, opcode: OpCode, payload: &[u8]) -> io::Result<()> {
        self.control.clear();
        self.encoder
            .encode(opcode, payload, &mut self.control)
            .map_err(io::Error::other)?;
        self.write.write_all(&self.control).await?;
        self.flush().await
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.write.flush().await?;
        self.idle.sent = Instant::now();
        Ok(())
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
        self.flush().await
    }

    /// A pong or a ping. Proxies between the nodes close connections that are idle.
    async fn control_pending(&mut self) {
        tokio::select! {
            () = self.pong.filled.notified() => {}
            () = self.idle.due() => {}
        }
    }

    async fn send_control(&mut self) -> io::Result<()> {
        if let Some(payload) = self.pong.take() {
            return self.send_control_frame(OpCode::Pong, &payload).await;
        }
        match self.idle.is_due() {
            true => self.send_control_frame(OpCode::Ping, PING).await,
            false => Ok(()),
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
                Step::Deliver => return Ok(Received::Data(Pieces::One(self.decoder.payload()))),
                Step::End => return Ok(Received::End),
                Step::Continue => {}
                Step::Read => match self.read.read(self.decoder.space(READ)).await {
                    Ok(0) => return Ok(self.at_end()),
                    Ok(count) => self.decoder.filled(count),
                    // An end without close_notify.
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
