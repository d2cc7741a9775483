//! One upgraded connection, relayed to one UNIX socket.

mod inbound;
mod local;
mod outbound;
mod pings;

use std::fmt;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use self::inbound::Inbound;
use self::local::Local;
use self::outbound::Outbound;
use self::pings::Pings;
use crate::frames::Reader;
use crate::misbehave::{Behaviour, FRAME_LIMIT};
use crate::wire::Wire;

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
    data_frames: u64,
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
            data_frames,
            frames,
            masked,
            sent,
            pings,
            pongs,
            ..
        } = self;
        write!(
            f,
            "; {received} bytes in {data_frames} data frames from the client, \
             {masked} of its {frames} frames masked; "
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
        data_frames: reader.data_frames,
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
    // The other direction must run meanwhile: the queue of notes may be full of pongs.
    let tell = async {
        if let Some(note) = note {
            let _ = notes.send(note).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = outgoing => {}
        () = drain(wire) => {}
        () = tell => {}
    }
    end
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
