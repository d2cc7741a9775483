//! A TLS connection after its handshake.
//!
//! A key of AES-GCM must not protect more than 2^24 records (RFC 8446 §5.5). In TLS 1.3 rustls then
//! changes the key. TLS 1.2 cannot change it: rustls sends close_notify, accepts everything that is
//! written afterwards, and drops it. The peer would see an orderly end of an incomplete stream, and the
//! writer a success. So this stream fails before it reaches the limit, without close_notify. It also
//! compares what rustls accepted with what rustls produced.

use super::{Established, WRITE};
use rustls::{CommonState, SupportedCipherSuite};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream as RustlsStream;

/// Plaintext of a full record, in bytes (RFC 8446 §5.1).
const RECORD: usize = 16 << 10;

/// Records below the limit that are left for those that rustls sends by itself: its Finished message,
/// and a few alerts.
const RESERVED: u64 = 16;

/// Why a TLS connection accepts no more data.
#[derive(Clone, Debug, Error)]
enum WriteError {
    #[error(
        "{cipher} allows {limit} records ({amount}) with one key, and they are used up: {ADVICE}"
    )]
    Exhausted {
        cipher: String,
        limit: u64,
        amount: String,
    },
    #[error("the TLS library accepted {bytes} bytes and did not send all of them ({cipher})")]
    Dropped { cipher: String, bytes: usize },
}

/// What an operator can do about the limit of a key.
const ADVICE: &str = "allow TLS 1.3, or TLS 1.2 with ChaCha20-Poly1305, at the target's API";

/// A TLS connection of either end, after its handshake.
#[derive(Debug)]
pub struct TlsStream<S> {
    inner: RustlsStream<Counted<S>>,
    /// Records that may still be sent. None: rustls changes the key in time, or the cipher has no limit.
    left: Option<u64>,
    /// The bytes of the last write, and how many bytes of records must have been sent when none waits.
    accepted: Option<(usize, u64)>,
    /// The error of a write, which ended the stream.
    failed: Option<WriteError>,
}

impl<S> TlsStream<S> {
    pub(super) fn new(inner: RustlsStream<Counted<S>>) -> Self {
        let left = record_limit(inner.get_ref().1).map(|limit| limit.saturating_sub(RESERVED));
        Self {
            inner,
            left,
            accepted: None,
            failed: None,
        }
    }

    /// Leaves only the comparison of what rustls accepted with what it sent, for tests.
    #[doc(hidden)]
    pub fn without_record_limit(self) -> Self {
        Self { left: None, ..self }
    }

    /// The stream of rustls.
    pub fn get_ref(&self) -> &RustlsStream<Counted<S>> {
        &self.inner
    }

    /// The connection below TLS.
    pub(crate) fn connection(&self) -> &S {
        &self.inner.get_ref().0.inner
    }

    /// The connection below TLS, after the end of TLS.
    pub fn into_inner(self) -> S {
        match self.inner {
            RustlsStream::Client(stream) => stream.into_inner().0.inner,
            RustlsStream::Server(stream) => stream.into_inner().0.inner,
        }
    }

    /// A warning, if the negotiated cipher limits the amount of data.
    pub fn limit_warning(&self) -> Option<String> {
        let limit = record_limit(self.negotiated())?;
        Some(format!(
            "{} can send {} at most over one connection, which then fails: {ADVICE}",
            super::describe(self),
            amount(limit)
        ))
    }

    /// Compares what rustls accepted with what it sent, while no record waits to be sent.
    fn check_sent(&mut self) -> io::Result<()> {
        let written = self.inner.get_ref().0.written;
        match self.accepted.take() {
            Some((_, due)) if written >= due => Ok(()),
            None => Ok(()),
            Some((bytes, _)) => {
                let cipher = super::describe(self);
                Err(self.fail(WriteError::Dropped { cipher, bytes }))
            }
        }
    }

    fn fail(&mut self, error: WriteError) -> io::Error {
        self.failed = Some(error.clone());
        io::Error::other(error)
    }

    fn check_failed(&self) -> io::Result<()> {
        match &self.failed {
            Some(error) => Err(io::Error::other(error.clone())),
            None => Ok(()),
        }
    }
}

impl<S> Established for TlsStream<S> {
    fn negotiated(&self) -> &CommonState {
        self.inner.get_ref().1
    }
}

/// How many records a key may protect. None if rustls changes the key in time, or if there is no limit.
fn record_limit(state: &CommonState) -> Option<u64> {
    match state.negotiated_cipher_suite()? {
        SupportedCipherSuite::Tls12(suite) => {
            Some(suite.common.confidentiality_limit).filter(|&limit| limit != u64::MAX)
        }
        SupportedCipherSuite::Tls13(_) => None,
    }
}

/// The amount of data in full records.
fn amount(records: u64) -> String {
    let bytes = records.saturating_mul(RECORD as u64);
    match bytes >> 30 {
        0 => format!("{} MiB", bytes >> 20),
        gib => format!("{gib} GiB"),
    }
}

/// The bytes of a record around its plaintext: header, nonce or type, and tag.
fn overhead(state: &CommonState) -> usize {
    const HEADER: usize = 5;
    const TAG: usize = 16;
    match state.negotiated_cipher_suite() {
        // RFC 8446 §5.2: the type of the content.
        Some(SupportedCipherSuite::Tls13(_)) => HEADER + 1 + TAG,
        // RFC 7905 §2: no explicit nonce.
        Some(suite)
            if suite
                .suite()
                .as_str()
                .is_some_and(|name| name.contains("CHACHA20")) =>
        {
            HEADER + TAG
        }
        // RFC 5288 §3: a nonce of eight bytes.
        _ => HEADER + 8 + TAG,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.check_failed()?;
        // rustls takes a whole write that fits its empty buffer, and so the number of its records is
        // known before.
        if this.negotiated().wants_write() {
            ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        }
        this.check_sent()?;
        let buf = &buf[..buf.len().min(WRITE)];
        let records = buf.len().div_ceil(RECORD) as u64;
        if let Some(left) = &mut this.left {
            match left.checked_sub(records) {
                Some(rest) => *left = rest,
                None => return Poll::Ready(Err(this.exhausted())),
            }
        }
        let before = this.inner.get_ref().0.written;
        let bytes = ready!(Pin::new(&mut this.inner).poll_write(cx, buf))?;
        let sent = bytes + bytes.div_ceil(RECORD) * overhead(this.negotiated());
        this.accepted = Some((bytes, before + sent as u64));
        Poll::Ready(Ok(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_failed()?;
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        Poll::Ready(self.check_sent())
    }

    /// Sends close_notify, unless a write has failed: that is not the end of the stream.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S> TlsStream<S> {
    fn exhausted(&mut self) -> io::Error {
        let limit = record_limit(self.negotiated()).unwrap_or_default();
        let cipher = super::describe(self);
        let amount = amount(limit);
        self.fail(WriteError::Exhausted {
            cipher,
            limit,
            amount,
        })
    }
}

/// A connection that counts the written bytes.
#[derive(Debug)]
pub struct Counted<S> {
    inner: S,
    written: u64,
}

impl<S> Counted<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, written: 0 }
    }

    fn count(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = result {
            self.written += count as u64;
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.count(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.count(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
