//! The connection by which each node knows that the other one is alive.
//!
//! A stream that does not move says nothing: its reader may be waiting for a slow disk. So one
//! connection of every migration carries nothing but a byte now and then, which the listener sends
//! back; if none comes for as long as the limit says, the other node, or the way there, is dead, and
//! every connection of the migration with it.

use std::io;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{interval, timeout};

/// Bytes sent within one limit: one lost packet is repeated by TCP long before the limit is over.
const BEATS: u32 = 4;

/// Why a watch is over.
#[derive(Debug, Error)]
pub(crate) enum WatchError {
    /// Nothing came for the whole limit.
    #[error("nothing has been heard from it for {0:?}")]
    Silent(Duration),
    /// It closed the connection.
    #[error("it closed the connection that watches over it")]
    Closed,
    /// The connection broke.
    #[error("the connection that watches over it failed: {0}")]
    Io(#[from] io::Error),
}

impl WatchError {
    /// Whether the other node, or the way there, is gone, rather than only the process at the other
    /// end. The kernel's own probes may find that out at the same moment as we do.
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

/// The source's side; returns when the listener is dead.
pub(crate) async fn keep<S>(stream: S, limit: Duration) -> WatchError
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut read, mut write) = tokio::io::split(stream);
    let beat = async {
        let mut ticks = interval(limit / BEATS);
        loop {
            ticks.tick().await;
            if let Err(error) = beat(&mut write).await {
                return WatchError::from(error);
            }
        }
    };
    let listen = async {
        loop {
            if let Err(error) = hear(&mut read, limit).await {
                return error;
            }
        }
    };
    tokio::select! {
        error = beat => error,
        error = listen => error,
    }
}

/// The listener's side; returns when the source is dead.
pub(crate) async fn echo<S>(mut stream: S, limit: Duration) -> WatchError
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        if let Err(error) = hear(&mut stream, limit).await {
            return error;
        }
        match timeout(limit, beat(&mut stream)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return WatchError::Silent(limit),
        }
    }
}

async fn beat<S: AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.write_all(&[0]).await?;
    stream.flush().await
}

async fn hear<S: AsyncRead + Unpin>(stream: &mut S, limit: Duration) -> Result<(), WatchError> {
    let mut bytes = [0; 16];
    match timeout(limit, stream.read(&mut bytes)).await {
        Ok(Ok(0)) => Err(WatchError::Closed),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(WatchError::Closed),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(WatchError::Silent(limit)),
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
    fn what_the_kernel_finds_out_first_is_no_other_death() {
        let found = |errno| WatchError::from(io::Error::from_raw_os_error(errno));
        for errno in [libc::ETIMEDOUT, libc::EHOSTUNREACH, libc::ENETUNREACH] {
            assert!(found(errno).is_death_of_node(), "{errno}");
        }
        for errno in [libc::ECONNRESET, libc::EPIPE] {
            assert!(!found(errno).is_death_of_node(), "{errno}");
        }
    }

    #[tokio::test]
    async fn two_that_live_watch_each_other_beyond_the_limit() {
        let (source, listener) = duplex(16);
        tokio::select! {
            error = keep(source, LIMIT) => unreachable!("source: {error}"),
            error = echo(listener, LIMIT) => unreachable!("listener: {error}"),
            () = sleep(3 * LIMIT) => {}
        }
    }

    #[tokio::test]
    async fn silence_is_death_and_so_is_an_end() {
        let (source, _listener) = duplex(16);
        assert!(matches!(keep(source, LIMIT).await, WatchError::Silent(_)));
        let (_source, listener) = duplex(16);
        assert!(matches!(echo(listener, LIMIT).await, WatchError::Silent(_)));
        let (source, listener) = duplex(16);
        drop(listener);
        assert!(matches!(
            keep(source, LIMIT).await,
            WatchError::Closed | WatchError::Io(_)
        ));
    }
}
