//! One upgraded connection, relayed to one UNIX socket.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::frames::{self, Incoming, Reader};
use crate::misbehave::{Behaviour, FRAME_LIMIT};
use crate::wire::{Scissors, Wire};

/// Becomes true when stalled connections may go on.
pub(crate) type Release = watch::Receiver<bool>;

/// How long to wait for the client to go after we have said goodbye; what it still sends is thrown
/// away meanwhile, because closing with unread bytes would reset the connection and take what it
/// has not read yet.
const LINGER: Duration = Duration::from_secs(10);
/// Bytes read at once.
const CHUNK: usize = FRAME_LIMIT;
/// Answers to pings that may wait for a client which does not read.
const PENDING_PONGS: usize = 16;

/// How a relayed connection ended, for the log.
#[derive(Debug)]
enum End {
    /// The client sent a close frame.
    CloseFrame,
    /// The client went without one.
    Disconnect,
    /// The UNIX side ended.
    Local,
    /// We cut it.
    Truncated,
    /// The client did what it must not.
    Refused(String),
    /// The UNIX side took no more.
    LocalFailed(io::Error),
    /// The wire failed.
    Failed(io::Error),
}

/// What went through, for the log; tests read it there.
struct Summary {
    end: End,
    received: u64,
    frames: u64,
    masked: u64,
    sent: u64,
    pings: u64,
    pongs: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.end {
            End::CloseFrame => write!(f, "close frame from the client")?,
            End::Disconnect => write!(f, "client went without a close frame")?,
            End::Local => write!(f, "end of the UNIX side")?,
            End::Truncated => write!(f, "truncated")?,
            End::Refused(reason) => write!(f, "refused: {reason}")?,
            End::LocalFailed(error) => write!(f, "the UNIX side took no more: {error}")?,
            End::Failed(error) => write!(f, "connection failed: {error}")?,
        }
        let Self {
            received,
            frames,
            masked,
            sent,
            pings,
            pongs,
            ..
        } = self;
        write!(
            f,
            "; {received} bytes in {frames} frames from the client, {masked} masked; "
        )?;
        write!(
            f,
            "{sent} bytes to the client; {pongs} of {pings} pings answered"
        )
    }
}

/// What the incoming side tells the outgoing one.
enum Note {
    Pong(Vec<u8>),
    /// The client has sent its close frame.
    Closed,
    /// The client did what it must not.
    Refused,
}

/// Relays until one side ends, and ends the other accordingly; logs what went through as `label`.
pub(crate) async fn run(
    wire: Wire,
    early: Vec<u8>,
    local: UnixStream,
    behaviour: &Behaviour,
    release: Release,
    label: &str,
) {
    let scissors = wire.scissors();
    let (mut wire_read, wire_write) = tokio::io::split(wire);
    let (local_read, local_write) = local.into_split();
    let pings = Mutex::new(Pings::default());
    let (notes, noted) = mpsc::channel(PENDING_PONGS);
    let mut inbound = Inbound {
        reader: Reader::new(early),
        local: Local::new(local_write, behaviour.drop_buffer),
        received: 0,
        behaviour,
        pings: &pings,
    };
    let mut outbound = Outbound {
        wire: wire_write,
        local: local_read,
        scissors: scissors.ok(),
        sent: 0,
        closed: false,
        behaviour,
        pings: &pings,
    };
    let end = both(
        &mut inbound,
        &mut outbound,
        &mut wire_read,
        notes,
        noted,
        release,
    )
    .await;
    match &end {
        End::CloseFrame => inbound.local.finish().await,
        _ => inbound.local.abandon(),
    }
    drop(outbound.local);
    let Inbound {
        reader, received, ..
    } = inbound;
    let (sent, answered) = pings
        .lock()
        .map(|pings| (pings.sent, pings.answered))
        .unwrap_or_default();
    let summary = Summary {
        end,
        received,
        frames: reader.frames,
        masked: reader.masked,
        sent: outbound.sent,
        pings: sent,
        pongs: answered,
    };
    crate::log(&format!("relay {label}: {summary}"));
    linger(&mut wire_read).await;
}

/// Runs both directions to the end of the connection.
async fn both(
    inbound: &mut Inbound<'_>,
    outbound: &mut Outbound<'_>,
    wire: &mut ReadHalf<Wire>,
    notes: mpsc::Sender<Note>,
    noted: mpsc::Receiver<Note>,
    release: Release,
) -> End {
    let outgoing = outbound.pump(noted, release.clone());
    tokio::pin!(outgoing);
    let end = tokio::select! {
        end = inbound.pump(wire, &notes, release) => end,
        end = &mut outgoing => return end,
    };
    let note = match &end {
        End::CloseFrame => {
            // The UNIX side hears the end now, and may still have something to say.
            inbound.local.end_writing().await;
            Some(Note::Closed)
        }
        End::Refused(_) => Some(Note::Refused),
        // Who takes nothing any more may have spoken before.
        End::LocalFailed(_) => None,
        _ => return end,
    };
    if let Some(note) = note {
        let _ = notes.send(note).await;
    }
    tokio::select! {
        _ = outgoing => {}
        () = drain(wire) => {}
    }
    end
}

/// From the client to the UNIX socket.
struct Inbound<'a> {
    reader: Reader,
    local: Local,
    received: u64,
    behaviour: &'a Behaviour,
    pings: &'a Mutex<Pings>,
}

impl Inbound<'_> {
    async fn pump(
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

/// From the UNIX socket to the client.
struct Outbound<'a> {
    wire: WriteHalf<Wire>,
    local: OwnedReadHalf,
    scissors: Option<Scissors>,
    sent: u64,
    /// The client has sent its close frame.
    closed: bool,
    behaviour: &'a Behaviour,
    pings: &'a Mutex<Pings>,
}

impl Outbound<'_> {
    async fn pump(&mut self, noted: mpsc::Receiver<Note>, release: Release) -> End {
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

/// The UNIX socket's writing half.
enum Local {
    /// What is not taken waits on the wire.
    Bounded(OwnedWriteHalf),
    /// What is not taken waits here, without limit, as in pveproxy.
    Unbounded(Option<mpsc::UnboundedSender<Vec<u8>>>, JoinHandle<()>),
    Ended,
}

impl Local {
    fn new(half: OwnedWriteHalf, unbounded: bool) -> Self {
        if !unbounded {
            return Self::Bounded(half);
        }
        let (sender, mut queue) = mpsc::unbounded_channel::<Vec<u8>>();
        let mut half = half;
        let writer = tokio::spawn(async move {
            while let Some(bytes) = queue.recv().await {
                if half.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            let _ = half.shutdown().await;
        });
        Self::Unbounded(Some(sender), writer)
    }

    async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        match self {
            Self::Bounded(half) => half.write_all(&bytes).await,
            Self::Unbounded(Some(sender), _) => sender.send(bytes).map_err(|_| gone()),
            _ => Err(gone()),
        }
    }

    /// The UNIX side is to hear the end after all that was written.
    async fn end_writing(&mut self) {
        match self {
            Self::Bounded(half) => {
                // A peer that is gone hears nothing anyway.
                let _ = half.shutdown().await;
            }
            Self::Unbounded(sender, _) => *sender = None,
            Self::Ended => {}
        }
    }

    /// Waits until the UNIX side has taken everything.
    async fn finish(&mut self) {
        if let Self::Unbounded(_, writer) = self {
            let _ = writer.await;
        }
        *self = Self::Ended;
    }

    /// Throws away what the UNIX side has not taken.
    fn abandon(&mut self) {
        if let Self::Unbounded(_, writer) = self {
            writer.abort();
        }
        *self = Self::Ended;
    }
}

/// Pings sent, and those whose pong is due.
#[derive(Default)]
struct Pings {
    due: VecDeque<Vec<u8>>,
    sent: u64,
    answered: u64,
}

impl Pings {
    /// A payload unlike the last ones, of any length from 0 to 125.
    fn next(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.sent * 25 % 126).unwrap_or(0);
        let payload: Vec<u8> = self
            .sent
            .to_be_bytes()
            .iter()
            .rev()
            .copied()
            .cycle()
            .take(length)
            .collect();
        self.sent += 1;
        self.due.push_back(payload.clone());
        payload
    }

    /// Whether a pong is the right one; those nobody asked for are allowed (RFC 6455, 5.5.3).
    fn answer(&mut self, payload: &[u8]) -> bool {
        match self.due.pop_front() {
            None => true,
            Some(due) => {
                self.answered += 1;
                due == payload
            }
        }
    }
}

/// Waits for the client to go, for a while.
async fn linger(wire: &mut ReadHalf<Wire>) {
    let _ = timeout(LINGER, drain(wire)).await;
}

/// Throws away what comes until the end.
async fn drain(wire: &mut ReadHalf<Wire>) {
    let mut sink = vec![0; CHUNK];
    while matches!(wire.read(&mut sink).await, Ok(count) if count > 0) {}
}

async fn released(release: &mut Release) {
    // An error means that the node ends.
    let _ = release.wait_for(|released| *released).await;
}

/// Makes `count` bytes take as long as they do at `rate` bytes a second.
async fn pace(count: usize, rate: Option<u64>) {
    if let Some(rate) = rate {
        let nanoseconds = count as u128 * 1_000_000_000 / u128::from(rate);
        sleep(Duration::from_nanos(
            u64::try_from(nanoseconds).unwrap_or(u64::MAX),
        ))
        .await;
    }
}
