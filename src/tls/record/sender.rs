//! From plaintext to the connection.
//!
//! A key of AES-GCM must not protect more than 2^24 records (RFC 8446 §5.5). In TLS 1.3 the key is changed
//! in time. TLS 1.2 cannot change it: the direction fails before the limit, without close_notify, because
//! the peer must not take an incomplete stream for a complete one.

use super::seal::Sealer;
use super::{FULL, KeySchedule, RECORD, RECORDS, is_tls13};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, HandshakeType,
    SupportedCipherSuite,
};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use thiserror::Error;
use tokio::io::AsyncWrite;

/// Records below the limit of a key that are left for a key update and alerts.
const RESERVED: u64 = 16;

/// The level of an alert (RFC 8446 §6).
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// What an operator can do about the limit of a key.
pub(in crate::tls) const ADVICE: &str =
    "allow TLS 1.3, or TLS 1.2 with ChaCha20-Poly1305, at the target's API";

/// Why a TLS connection accepts no more data.
#[derive(Clone, Debug, Error)]
enum SendError {
    #[error(
        "{cipher} allows {limit} records ({}) with one key, and they are used up: {ADVICE}", amount(*.limit)
    )]
    Exhausted { cipher: String, limit: u64 },
    #[error("the data cannot be encrypted with {cipher}: {cause}")]
    Refused { cipher: String, cause: Error },
    #[error("the end of this direction was already sent")]
    Ended,
}

/// The direction that sends.
pub(crate) struct Sender {
    suite: SupportedCipherSuite,
    /// The version and the cipher suite, for errors.
    cipher: String,
    sealer: Sealer,
    schedule: Box<dyn KeySchedule>,
    /// Records that one key may protect.
    limit: u64,
    /// Encrypted records, and how much of them was written.
    records: Vec<u8>,
    written: usize,
    /// Whether records that were sealed in place are not written yet: nothing may precede them.
    foreign: bool,
    key_changes: u64,
    /// The peer has requested a new key. The answer precedes the next data (RFC 8446 §4.6.3).
    key_update_requested: bool,
    /// The peer has requested another handshake. As for a key update.
    renegotiation_requested: bool,
    /// Whether close_notify or a fatal alert was sent.
    ended: bool,
    /// The error that ended the direction.
    failed: Option<SendError>,
}

impl Sender {
    pub(in crate::tls) fn new(
        suite: SupportedCipherSuite,
        cipher: String,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
        schedule: Box<dyn KeySchedule>,
    ) -> Result<Self, Error> {
        Ok(Self {
            suite,
            cipher,
            sealer: Sealer::new(suite, sequence, secrets)?,
            schedule,
            limit: record_limit(suite),
            records: Vec::new(),
            written: 0,
            foreign: false,
            key_changes: 0,
            key_update_requested: false,
            renegotiation_requested: false,
            ended: false,
            failed: None,
        })
    }

    /// Lowers the limit of a key, for tests.
    pub(in crate::tls) fn limit_key_to(&mut self, records: u64) {
        self.limit = records;
    }

    /// How often this end has changed its key.
    pub(in crate::tls) fn key_changes(&self) -> u64 {
        self.key_changes
    }

    pub(super) fn schedule(&mut self) -> &mut dyn KeySchedule {
        &mut *self.schedule
    }

    /// Changes the key before the next data.
    pub(super) fn answer_key_update(&mut self) {
        self.key_update_requested = true;
    }

    /// Sends the warning that rejects a renegotiation before the next data.
    pub(super) fn refuse_renegotiation(&mut self) {
        self.renegotiation_requested = true;
    }

    /// Encrypts data, at most [`RECORDS`] full records, after everything earlier was written. Returns how
    /// much of it.
    pub(crate) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        data: &[u8],
        connection: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.check_open()?;
        ready!(self.poll_write(connection, context))?;
        let data = &data[..data.len().min(RECORDS * RECORD)];
        self.prepare(data.len().div_ceil(RECORD) as u64)?;
        for payload in data.chunks(RECORD) {
            self.seal(ContentType::ApplicationData, payload)?;
        }
        // The data is accepted, whether or not everything could be written.
        if let Poll::Ready(Err(error)) = self.poll_write(connection, context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(data.len()))
    }

    /// Encrypts data in the buffer where it is: records with their header and their payload, of which the
    /// last one may be shorter, and everything between. Only for TLS 1.3. The caller writes it with
    /// [`poll_write_sealed`](Self::poll_write_sealed).
    pub(crate) fn seal_in_place(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.check_open()?;
        if !is_tls13(self.suite) {
            let cause = Error::General("its records have another layout".into());
            return Err(self.refused(cause));
        }
        self.prepare(buffer.len().div_ceil(FULL) as u64)?;
        for record in buffer.chunks_mut(FULL) {
            let sealed = self.sealer.seal(ContentType::ApplicationData, record);
            sealed.map_err(|cause| self.refused(cause))?;
        }
        Ok(())
    }

    /// Writes records that were sealed in place, of which `written` bytes were written, after everything
    /// earlier.
    pub(crate) fn poll_write_sealed<S: AsyncWrite + Unpin>(
        &mut self,
        buffer: &[u8],
        written: &mut usize,
        connection: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.foreign = true;
        ready!(self.poll_write(connection, context))?;
        ready!(poll_write_rest(buffer, written, connection, context))?;
        self.foreign = false;
        Pin::new(connection).poll_flush(context)
    }

    /// Sends what precedes this many records of data, and ensures that the key may protect them.
    fn prepare(&mut self, records: u64) -> io::Result<()> {
        if std::mem::take(&mut self.renegotiation_requested) {
            let alert = AlertDescription::NoRenegotiation;
            self.seal(ContentType::Alert, &[WARNING, alert.into()])?;
        }
        let used_up = self.sealer.sequence().saturating_add(records + RESERVED) > self.limit;
        if used_up && !is_tls13(self.suite) {
            let cipher = self.cipher.clone();
            let limit = self.limit;
            return Err(self.fail(SendError::Exhausted { cipher, limit }));
        }
        if used_up || self.key_update_requested {
            self.key_update_requested = false;
            self.change_key()?;
        }
        Ok(())
    }

    /// Announces the next key and uses it. The peer's own key needs no change with it.
    fn change_key(&mut self) -> io::Result<()> {
        const UPDATE_NOT_REQUESTED: u8 = 0;
        let message = [
            HandshakeType::KeyUpdate.into(),
            0,
            0,
            1,
            UPDATE_NOT_REQUESTED,
        ];
        self.seal(ContentType::Handshake, &message)?;
        let next = self
            .schedule
            .next_to_send()
            .and_then(|secrets| Sealer::new(self.suite, 0, secrets));
        self.sealer = next.map_err(|cause| self.refused(cause))?;
        self.key_changes += 1;
        Ok(())
    }

    /// Appends a record.
    fn seal(&mut self, kind: ContentType, payload: &[u8]) -> io::Result<()> {
        let start = self.records.len();
        let length = self.sealer.before() + payload.len() + self.sealer.after();
        self.records.reserve(length);
        self.records.resize(start + self.sealer.before(), 0);
        self.records.extend_from_slice(payload);
        self.records.resize(start + length, 0);
        if let Err(cause) = self.sealer.seal(kind, &mut self.records[start..]) {
            self.records.truncate(start);
            return Err(self.refused(cause));
        }
        Ok(())
    }

    /// Writes all encrypted records.
    fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        connection: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let (records, written) = (&self.records, &mut self.written);
        ready!(poll_write_rest(records, written, connection, context))?;
        self.records.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Writes everything that was accepted.
    pub(crate) fn poll_flush<S: AsyncWrite + Unpin>(
        &mut self,
        connection: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_failed()?;
        ready!(self.poll_write(connection, context))?;
        Pin::new(connection).poll_flush(context)
    }

    /// Sends close_notify, then the end of the connection's direction. After an error it sends nothing:
    /// that is not the end of the stream.
    pub(crate) fn poll_finish<S: AsyncWrite + Unpin>(
        &mut self,
        connection: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_failed()?;
        if !self.ended {
            let alert = AlertDescription::CloseNotify;
            self.seal(ContentType::Alert, &[WARNING, alert.into()])?;
            self.ended = true;
        }
        ready!(self.poll_write(connection, context))?;
        match ready!(Pin::new(connection).poll_shutdown(context)) {
            // The peer has already ended both directions.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }

    /// Reports an error of receiving to the peer, as far as the connection accepts it at once.
    pub(super) fn report<S: AsyncWrite + Unpin>(
        &mut self,
        alert: AlertDescription,
        connection: &mut S,
        context: &mut Context<'_>,
    ) {
        if self.ended || self.foreign || self.failed.is_some() {
            return;
        }
        self.ended = true;
        if self
            .seal(ContentType::Alert, &[FATAL, alert.into()])
            .is_ok()
        {
            // The error of receiving is the one that counts.
            let _ = self.poll_write(connection, context);
        }
    }

    fn refused(&mut self, cause: Error) -> io::Error {
        let cipher = self.cipher.clone();
        self.fail(SendError::Refused { cipher, cause })
    }

    fn fail(&mut self, error: SendError) -> io::Error {
        self.failed = Some(error.clone());
        io::Error::other(error)
    }

    fn check_open(&self) -> io::Result<()> {
        self.check_failed()?;
        match self.ended {
            true => Err(io::Error::new(io::ErrorKind::BrokenPipe, SendError::Ended)),
            false => Ok(()),
        }
    }

    fn check_failed(&self) -> io::Result<()> {
        match &self.failed {
            Some(error) => Err(io::Error::other(error.clone())),
            None => Ok(()),
        }
    }
}

/// Writes what follows the first `written` bytes, and counts it.
fn poll_write_rest<S: AsyncWrite + Unpin>(
    bytes: &[u8],
    written: &mut usize,
    connection: &mut S,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while *written < bytes.len() {
        let rest = &bytes[*written..];
        match ready!(Pin::new(&mut *connection).poll_write(context, rest))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            count => *written += count,
        }
    }
    Poll::Ready(Ok(()))
}

/// How many records one key may protect.
fn record_limit(suite: SupportedCipherSuite) -> u64 {
    match suite {
        SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
        SupportedCipherSuite::Tls13(suite) => suite.common.confidentiality_limit,
    }
}

/// How much data a connection can send, if its key cannot be changed and has a limit.
pub(in crate::tls) fn data_limit(suite: SupportedCipherSuite) -> Option<String> {
    let limit = record_limit(suite);
    (!is_tls13(suite) && limit != u64::MAX).then(|| amount(limit))
}

/// The amount of data in full records.
fn amount(records: u64) -> String {
    let bytes = records.saturating_mul(RECORD as u64);
    match bytes >> 30 {
        0 => format!("{} MiB", bytes >> 20),
        gib => format!("{gib} GiB"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tls::record::keys::fixed::{FixedKeys, secrets, suites};
    use std::future::poll_fn;

    /// Data that cannot be encrypted is not sent, and neither is the announcement of an orderly end.
    #[tokio::test]
    async fn after_a_refused_record_nothing_is_sent() {
        let unlimited = |suite: &SupportedCipherSuite| record_limit(*suite) == u64::MAX;
        for suite in suites().into_iter().filter(unlimited) {
            let last = (u64::MAX - 1, secrets(suite));
            let cipher = "the cipher".to_owned();
            let mut sender = Sender::new(suite, cipher, last, Box::new(FixedKeys(suite))).unwrap();
            sender.limit_key_to(u64::MAX);
            let mut written = Vec::new();
            let mut send = async |data: &[u8], written: &mut Vec<u8>| {
                poll_fn(|context| sender.poll_send(data, written, context)).await
            };
            assert_eq!(send(b"data", &mut written).await.unwrap(), 4);
            let before = written.len();
            for _ in 0..2 {
                let error = send(b"more", &mut written).await.unwrap_err();
                let text = error.to_string();
                assert!(
                    text.contains("cannot be encrypted with the cipher"),
                    "{text}"
                );
            }
            let finished = poll_fn(|context| sender.poll_finish(&mut written, context)).await;
            finished.unwrap_err();
            assert_eq!(written.len(), before);
        }
    }
}
