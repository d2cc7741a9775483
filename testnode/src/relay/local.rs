//! Writing to the UNIX socket, with or without backpressure to the client.

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The write half of the UNIX socket.
pub(super) enum Local {
    /// A write waits until the UNIX side has received the bytes.
    Bounded(OwnedWriteHalf),
    /// A write puts the bytes into an unbounded queue, as in pveproxy.
    Unbounded(Option<mpsc::UnboundedSender<Vec<u8>>>, JoinHandle<()>),
    Closed,
}

impl Local {
    pub(super) fn new(half: OwnedWriteHalf, unbounded: bool) -> Self {
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

    pub(super) async fn write(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        match self {
            Self::Bounded(half) => half.write_all(&bytes).await,
            Self::Unbounded(Some(sender), _) => sender.send(bytes).map_err(|_| closed()),
            _ => Err(closed()),
        }
    }

    /// Sends end of file to the UNIX side, after all bytes written before.
    pub(super) async fn shut_down(&mut self) {
        match self {
            Self::Bounded(half) => {
                // Ignored if the UNIX side has closed its socket.
                let _ = half.shutdown().await;
            }
            Self::Unbounded(sender, _) => *sender = None,
            Self::Closed => {}
        }
    }

    /// Waits until the UNIX side has received everything.
    pub(super) async fn finish(&mut self) {
        if let Self::Unbounded(_, writer) = self {
            let _ = writer.await;
        }
        *self = Self::Closed;
    }

    /// Discards what the UNIX side has not received.
    pub(super) fn abort(&mut self) {
        if let Self::Unbounded(_, writer) = self {
            writer.abort();
        }
        *self = Self::Closed;
    }
}
