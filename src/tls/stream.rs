//! A TLS connection after its handshake.

use super::agreed::Agreed;
use super::record::{KeySchedule, Opener, Receiver, Sender};
use rustls::{Error, ExtractedSecrets, Side};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A TLS connection of either end, after its handshake.
///
/// The two directions end separately. The end of the connection without close_notify is an error of
/// the kind `UnexpectedEof`; other errors of TLS have the kind `InvalidData`.
pub struct TlsStream<S> {
    connection: S,
    agreed: Agreed,
    receiver: Receiver,
    sender: Sender,
    /// Whether data is wiped in the receive buffer when it was read.
    wipes: bool,
}

impl<S> TlsStream<S> {
    /// `received`: bytes that followed the last message of the handshake.
    pub(super) fn new(
        connection: S,
        agreed: Agreed,
        side: Side,
        received: Vec<u8>,
        secrets: ExtractedSecrets,
        schedule: Box<dyn KeySchedule>,
    ) -> Result<Self, Error> {
        let ExtractedSecrets {
            tx,
            rx: (sequence, secrets),
        } = secrets;
        let opener = Opener::new(agreed.suite, side, sequence, secrets)?;
        Ok(Self {
            connection,
            receiver: Receiver::new(received, opener),
            sender: Sender::new(agreed.suite, agreed.describe(), tx, schedule)?,
            agreed,
            wipes: false,
        })
    }

    /// Leaves no data in the receive buffer after it was read. For connections that carry answers with
    /// secrets, and not guest data.
    pub(crate) fn wipe_after_reading(mut self) -> Self {
        self.wipes = true;
        self
    }

    /// Changes the key, or fails if the version has no key changes, after this many records. For tests.
    #[doc(hidden)]
    pub fn limit_key_to(mut self, records: u64) -> Self {
        self.sender.limit_key_to(records);
        self
    }

    /// What the handshake has established.
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// The session tickets that were received.
    #[doc(hidden)]
    pub fn tickets(&self) -> u32 {
        self.receiver.tickets()
    }

    /// How often this end and the peer have changed their keys.
    #[doc(hidden)]
    pub fn key_changes(&self) -> (u64, u64) {
        (self.sender.key_changes(), self.receiver.key_changes())
    }

    /// The connection below TLS.
    pub fn get_ref(&self) -> &S {
        &self.connection
    }

    /// The connection below TLS, after the end of TLS.
    pub fn into_inner(self) -> S {
        self.connection
    }

    /// Replaces the connection below TLS by what `change` makes of it.
    pub(crate) fn try_map<T, E>(
        self,
        change: impl FnOnce(S) -> Result<T, E>,
    ) -> Result<TlsStream<T>, E> {
        Ok(TlsStream {
            connection: change(self.connection)?,
            agreed: self.agreed,
            receiver: self.receiver,
            sender: self.sender,
            wipes: self.wipes,
        })
    }

    /// The connection below TLS and both directions.
    pub(crate) fn into_parts(self) -> (S, Receiver, Sender) {
        (self.connection, self.receiver, self.sender)
    }

    /// A warning, if the negotiated cipher limits the amount of data.
    pub fn limit_warning(&self) -> Option<String> {
        self.agreed.limit_warning()
    }
}

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsStream({})", self.agreed.describe())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (receiver, sender) = (&mut this.receiver, &mut this.sender);
        if ready!(receiver.poll_data(&mut this.connection, sender, context))? {
            while out.remaining() > 0 && !receiver.data().is_empty() {
                let data = receiver.data();
                let count = data.len().min(out.remaining());
                out.put_slice(&data[..count]);
                receiver.take(count, this.wipes);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.sender.poll_send(bytes, &mut this.connection, context)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.sender.poll_flush(&mut this.connection, context)
    }

    /// Sends close_notify, unless a write has failed: that is not the end of the stream.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.sender.poll_finish(&mut this.connection, context)
    }
}
