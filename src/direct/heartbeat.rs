//! The connection by which each node detects that the other one is dead.
//!
//! A stream that does not move proves nothing: its reader may be waiting for a slow disk. So one
//! connection of every migration carries nothing but a byte at intervals, which the listener sends
//! back, and at its beginning the probe of the network path. If none arrives within the limit, the other node or the network path is dead, and with it
//! every connection of the migration.

use std::io;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{interval, timeout};

/// Most bytes that the listener receives and sends back at once: one TLS record.
const CHUNK: usize = 16 << 10;

/// Beats within one limit. TCP repeats a lost packet long before the limit is over.
const BEATS: u32 = 4;

/// Why a heartbeat ended.
#[derive(Debug, Error)]
pub(crate) enum HeartbeatError {
    /// Nothing arrived for the whole limit.
    #[error("no heartbeat received for {0:?}")]
    Silent(Duration),
    /// The peer closed the connection.
    #[error("it closed the heartbeat connection")]
    Closed,
    /// The connection broke.
    #[error("the heartbeat connection failed: {0}")]
    Io(#[from] io::Error),
}

impl HeartbeatError {
    /// Whether the other node or the network path is gone, and not only the process at the other
    /// end. The kernel's own probes may detect that at the same moment.
    pub(crate) fn is_death_of_node(&self) -> bool {
        use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
        match self {
            Self::Silent(_) => true,
            Self::Closed => false,
            Self::Io(error) => matches!(
                error.kind(),
                TimedOut | HostUnreachable | NetworkUnreachable
            ),
        }
    }
}

/// The source's end: sends a beat at intervals, several within `limit`, and expects each one back. Returns
/// when nothing has arrived for `silence`.
pub(crate) async fn run<S>(stream: S, limit: Duration, silence: Duration) -> HeartbeatError
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut read, mut write) = tokio::io::split(stream);
    let beats = async {
        let mut ticks = interval(limit / BEATS);
        loop {
            ticks.tick().await;
            if let Err(error) = send(&mut write, &[0]).await {
                return HeartbeatError::from(error);
            }
        }
    };
    let echoes = async {
        let mut buffer = [0; 16];
        loop {
            if let Err(error) = receive(&mut read, &mut buffer, silence).await {
                return error;
            }
        }
    };
    tokio::select! {
        error = beats => error,
        error = echoes => error,
    }
}

/// The listener's end: sends every byte back, and calls `on_beat` before. Returns when the source is
/// dead.
pub(crate) async fn echo<S>(
    mut stream: S,
    limit: Duration,
    mut on_beat: impl FnMut(),
) -> HeartbeatError
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match receive(&mut stream, &mut buffer, limit).await {
            Ok(count) => count,
            Err(error) => return error,
        };
        on_beat();
        match timeout(limit, send(&mut stream, &buffer[..count])).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return HeartbeatError::Silent(limit),
        }
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut [u8],
    limit: Duration,
) -> Result<usize, HeartbeatError> {
    match timeout(limit, stream.read(buffer)).await {
        Ok(Ok(0)) => Err(HeartbeatError::Closed),
        Ok(Ok(count)) => Ok(count),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(HeartbeatError::Closed)
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(HeartbeatError::Silent(limit)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::duplex;
    use tokio::time::sleep;

    const LIMIT: Duration = Duration::from_millis(400);

    #[test]
    fn a_death_that_the_kernel_detects_first_counts_as_death() {
        let found = |errno| HeartbeatError::from(io::Error::from_raw_os_error(errno));
        for errno in [libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::ENETUNREACH] {
            assert!(found(errno).is_death_of_node(), "{errno}");
        }
        for errno in [libc::ECONNRESET, libc::EPIPE] {
            assert!(!found(errno).is_death_of_node(), "{errno}");
        }
    }

    #[tokio::test]
    async fn two_live_ends_go_on_beyond_the_limit() {
        let (source, listener) = duplex(16);
        tokio::select! {
            error = run(source, LIMIT, LIMIT) => unreachable!("source: {error}"),
            error = echo(listener, LIMIT, || ()) => unreachable!("listener: {error}"),
            () = sleep(3 * LIMIT) => {}
        }
    }

    #[tokio::test]
    async fn every_byte_is_sent_back_and_every_beat_is_reported() {
        let (mut source, listener) = duplex(100);
        let beats = std::sync::atomic::AtomicUsize::new(0);
        let count = || {
            beats.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        let sent: Vec<u8> = (0..3 * CHUNK).map(|byte| (byte % 251) as u8).collect();
        let source = async {
            let mut received = vec![0; sent.len()];
            let (mut read, mut write) = tokio::io::split(&mut source);
            let (written, read) =
                tokio::join!(write.write_all(&sent), read.read_exact(&mut received));
            written.unwrap();
            read.unwrap();
            received
        };
        tokio::select! {
            received = source => assert!(received == sent),
            error = echo(listener, 100 * LIMIT, count) => unreachable!("{error}"),
        }
        assert!(beats.into_inner() > 1);
    }

    #[tokio::test]
    async fn silence_and_an_end_are_both_detected() {
        let (source, _listener) = duplex(16);
        assert!(matches!(
            run(source, LIMIT, LIMIT).await,
            HeartbeatError::Silent(_)
        ));
        let (_source, listener) = duplex(16);
        assert!(matches!(
            echo(listener, LIMIT, || ()).await,
            HeartbeatError::Silent(_)
        ));
        let (source, listener) = duplex(16);
        drop(listener);
        assert!(matches!(
            run(source, LIMIT, LIMIT).await,
            HeartbeatError::Closed | HeartbeatError::Io(_)
        ));
    }
}
