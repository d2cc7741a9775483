//! What waits for the UNIX side, and where.

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The UNIX socket's writing half.
pub(super) enum Local {
    /// What is not taken waits on the wire.
    Bounded(OwnedWriteHalf),
    /// What is not taken waits here, without limit, as in pveproxy.
    Unbounded(Option<mpsc::UnboundedSender<Vec<u8>>>, JoinHandle<()>),
    Ended,
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
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        match self {
            Self::Bounded(half) => half.write_all(&bytes).await,
            Self::Unbounded(Some(sender), _) => sender.send(bytes).map_err(|_| gone()),
            _ => Err(gone()),
        }
    }

    /// The UNIX side is to hear the end after all that was written.
    pub(super) async fn end_writing(&mut self) {
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
    pub(super) async fn finish(&mut self) {
        if let Self::Unbounded(_, writer) = self {
            let _ = writer.await;
        }
        *self = Self::Ended;
    }

    /// Throws away what the UNIX side has not taken.
    pub(super) fn abandon(&mut self) {
        if let Self::Unbounded(_, writer) = self {
            writer.abort();
        }
        *self = Self::Ended;
    }
}
