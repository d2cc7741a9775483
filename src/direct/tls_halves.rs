//! A TLS stream as the two halves of a relay. Payload is encrypted where the relay has read it, and
//! written from where it was decrypted.

use crate::relay::{Incoming, Outgoing, Pieces, Received};
use crate::system::lock;
use crate::tls::{Receiver, RecordLayout, Sender, TlsStream};
use std::future::{pending, poll_fn};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};

/// What both directions need: the receiving one sends answers and alerts. A relay drives both from one
/// task, so neither waits for the other.
struct Shared<S> {
    connection: S,
    sender: Sender,
}

/// Splits a TLS stream after its handshake.
pub(crate) fn split<S>(stream: TlsStream<S>) -> (TlsOutgoing<S>, TlsIncoming<S>) {
    let (connection, receiver, sender) = stream.into_parts();
    let shared = Arc::new(Mutex::new(Shared { connection, sender }));
    let outgoing = TlsOutgoing {
        shared: shared.clone(),
    };
    (outgoing, TlsIncoming { shared, receiver })
}

/// The half that sends.
pub(crate) struct TlsOutgoing<S> {
    shared: Arc<Mutex<Shared<S>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Outgoing for TlsOutgoing<S> {
    // A buffer is what is written at once: eight records, encrypted where they were read.
    const ROOM: usize = RecordLayout::BEFORE;
    const MAX: usize = RecordLayout::PAYLOAD;
    const AFTER: usize = RecordLayout::AFTER;
    const PIECES: usize = RecordLayout::RECORDS;

    async fn send(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        lock(&self.shared).sender.seal_in_place(buffer)?;
        let mut written = 0;
        poll_fn(|context| {
            let Shared { connection, sender } = &mut *lock(&self.shared);
            sender.poll_write_sealed(buffer, &mut written, connection, context)
        })
        .await
    }

    async fn control_pending(&mut self) {
        pending().await
    }

    async fn send_control(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Sends close_notify, then FIN; the other direction stays open.
    async fn finish(&mut self) -> io::Result<()> {
        poll_fn(|context| {
            let shared = &mut *lock(&self.shared);
            shared.sender.poll_finish(&mut shared.connection, context)
        })
        .await
    }
}

/// The half that receives.
pub(crate) struct TlsIncoming<S> {
    shared: Arc<Mutex<Shared<S>>>,
    receiver: Receiver,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Incoming for TlsIncoming<S> {
    const HALF_CLOSE: bool = true;

    async fn next(&mut self) -> io::Result<Received<'_>> {
        let data = poll_fn(|context| {
            let Shared { connection, sender } = &mut *lock(&self.shared);
            self.receiver.poll_data(connection, sender, context)
        });
        match data.await {
            Ok(true) => {
                let (buffer, places) = self.receiver.take_all();
                Ok(Received::Data(Pieces::Many { buffer, places }))
            }
            Ok(false) => Ok(Received::End),
            // An end without close_notify.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Received::Stopped),
            Err(error) => Err(error),
        }
    }
}
