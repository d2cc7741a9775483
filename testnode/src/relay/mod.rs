//! Relays one upgraded connection to one UNIX socket.
//!
//! The *UNIX side* is the process that listens on that socket: the worker, QEMU or an import.

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
use crate::connection::Connection;
use crate::frames::Reader;
use crate::misbehave::{Behaviour, FRAME_LIMIT};

/// Becomes true when stalled connections may continue.
pub(crate) type Release = watch::Receiver<bool>;

/// How long the relay waits for the client to disconnect after the relay has shut the connection
/// down. The relay reads and discards what the client sends meanwhile. Closing a socket with unread
/// bytes would reset the connection, and the client could lose bytes that it has not read yet.
const LINGER: Duration = Duration::from_secs(10);
/// Largest number of bytes per read.
const CHUNK: usize = FRAME_LIMIT;
/// Limit of pongs that wait for a client that does not read.
const PENDING_PONGS: usize = 16;

/// How a relayed connection ended, for the log.
#[derive(Debug)]
enum End {
    /// The client sent a close frame.
    CloseFrame,
    /// The client disconnected without a close frame.
    Disconnect,
    /// The UNIX side closed its socket.
    Local,
    /// The relay sent FIN without close_notify, as a fault requires.
    Truncated,
    /// The client violated the protocol.
    Refused(String),
    /// Writing to the UNIX socket failed.
    LocalFailed(io::Error),
    /// The connection failed.
    Failed(io::Error),
}

/// The statistics of a connection for the log, where tests read them.
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
            End::Local => write!(f, "the UNIX side closed")?,
            End::Truncated => write!(f, "truncated")?,
            End::Refused(reason) => write!(f, "refused: {reason}")?,
            End::LocalFailed(error) => write!(f, "cannot write to the UNIX socket: {error}")?,
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

/// What the inbound direction reports to the outbound direction.
enum ClientEvent {
    /// The client sent a ping. The pong must carry this payload.
    Ping(Vec<u8>),
    /// The client sent a close frame.
    Closed,
    /// The client violated the protocol.
    Refused,
}

/// Relays until one side closes, then closes the other side accordingly. Logs the statistics under
/// the name `label`.
pub(crate) async fn run(
    connection: Connection,
    early: Vec<u8>,
    local: UnixStream,
    behaviour: &Behaviour,
    release: Release,
    label: &str,
) {
    let tcp_handle = connection.tcp_handle();
    let (mut connection_read, connection_write) = tokio::io::split(connection);
    let (local_read, local_write) = local.into_split();
    let pings = Mutex::new(Pings::default());
    let (event_sender, event_receiver) = mpsc::channel(PENDING_PONGS);
    let mut inbound = Inbound {
        reader: Reader::new(early),
        local: Local::new(local_write, behaviour.drop_buffer),
        received: 0,
        behaviour,
        pings: &pings,
    };
    let mut outbound = Outbound {
        connection: connection_write,
        local: local_read,
        tcp_handle: tcp_handle.ok(),
        sent: 0,
        closed: false,
        behaviour,
        pings: &pings,
    };
    let end = both(
        &mut inbound,
        &mut outbound,
        &mut connection_read,
        event_sender,
        event_receiver,
        release,
    )
    .await;
    match &end {
        End::CloseFrame => inbound.local.finish().await,
        _ => inbound.local.abort(),
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
    linger(&mut connection_read).await;
}

/// Runs both directions until the connection ends.
async fn both(
    inbound: &mut Inbound<'_>,
    outbound: &mut Outbound<'_>,
    connection: &mut ReadHalf<Connection>,
    event_sender: mpsc::Sender<ClientEvent>,
    event_receiver: mpsc::Receiver<ClientEvent>,
    release: Release,
) -> End {
    let outgoing = outbound.pump(event_receiver, release.clone());
    tokio::pin!(outgoing);
    let end = tokio::select! {
        end = inbound.pump(connection, &event_sender, release) => end,
        end = &mut outgoing => return end,
    };
    let event = match &end {
        End::CloseFrame => {
            // The UNIX side receives end of file now, and may still send data.
            inbound.local.shut_down().await;
            Some(ClientEvent::Closed)
        }
        End::Refused(_) => Some(ClientEvent::Refused),
        // The UNIX side receives no more, but may have sent data before.
        End::LocalFailed(_) => None,
        _ => return end,
    };
    // The outbound direction must run meanwhile: the queue may be full of pings.
    let report = async {
        if let Some(event) = event {
            let _ = event_sender.send(event).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = outgoing => {}
        () = drain(connection) => {}
        () = report => {}
    }
    end
}

/// Waits for the client to disconnect, at most `LINGER`.
async fn linger(connection: &mut ReadHalf<Connection>) {
    let _ = timeout(LINGER, drain(connection)).await;
}

/// Reads and discards everything until end of file.
async fn drain(connection: &mut ReadHalf<Connection>) {
    let mut sink = vec![0; CHUNK];
    while matches!(connection.read(&mut sink).await, Ok(count) if count > 0) {}
}

async fn released(release: &mut Release) {
    // An error means that the node is shutting down.
    let _ = release.wait_for(|released| *released).await;
}

/// Sleeps as long as `count` bytes take at `rate` bytes per second.
async fn pace(count: usize, rate: Option<u64>) {
    if let Some(rate) = rate {
        let nanoseconds = count as u128 * 1_000_000_000 / u128::from(rate);
        sleep(Duration::from_nanos(
            u64::try_from(nanoseconds).unwrap_or(u64::MAX),
        ))
        .await;
    }
}
