//! The TLS handshake of either end.
//!
//! rustls processes the messages. Its unbuffered interface is used, because only that hands over the
//! connection to the record layer of this room.

use super::TlsStream;
use super::agreed::Agreed;
use super::record::{HEADER, KeySchedule};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CommonState, Error, ExtractedSecrets, Side};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes that are read at once.
const READ: usize = 4 << 10;

/// Most received bytes that a handshake may keep. rustls rejects messages above 64 KiB; a few of them may
/// wait in one buffer.
const MOST: usize = 256 << 10;

/// Most messages that rustls may send in reply to an error.
const ALERTS: usize = 4;

/// A connection of rustls that owns no buffers.
pub(super) trait Handshake {
    const SIDE: Side;
    type Data;
    fn process<'c, 'i>(
        &'c mut self,
        received: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn state(&self) -> &CommonState;
    /// The keys, after the handshake.
    fn into_keys(self) -> Result<(ExtractedSecrets, Box<dyn KeySchedule>), Error>;
}

impl Handshake for UnbufferedClientConnection {
    const SIDE: Side = Side::Client;
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        received: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn state(&self) -> &CommonState {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Box<dyn KeySchedule>), Error> {
        let (secrets, schedule): (_, KernelConnection<_>) =
            self.dangerous_into_kernel_connection()?;
        Ok((secrets, Box::new(schedule)))
    }
}

impl Handshake for UnbufferedServerConnection {
    const SIDE: Side = Side::Server;
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        received: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(received)
    }

    fn state(&self) -> &CommonState {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Box<dyn KeySchedule>), Error> {
        let (secrets, schedule): (_, KernelConnection<_>) =
            self.dangerous_into_kernel_connection()?;
        Ok((secrets, Box::new(schedule)))
    }
}

/// What has to happen next.
enum Step {
    Continue,
    Read,
    Done,
}

/// Completes the handshake. On failure an alert with the reason is sent, if `stream` accepts it at once.
pub(super) async fn complete<C, S>(mut connection: C, mut stream: S) -> io::Result<TlsStream<S>>
where
    C: Handshake,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut received = Received::default();
    let mut output = Vec::new();
    loop {
        let UnbufferedStatus { discard, state, .. } = connection.process(received.offered());
        let step = match state {
            Ok(ConnectionState::EncodeTlsData(mut message)) => {
                encode(&mut message, &mut output)?;
                Step::Continue
            }
            Ok(ConnectionState::TransmitTlsData(messages)) => {
                stream.write_all(&output).await?;
                stream.flush().await?;
                output.clear();
                messages.done();
                Step::Continue
            }
            Ok(ConnectionState::BlockedHandshake) => Step::Read,
            Ok(ConnectionState::WriteTraffic(_)) => Step::Done,
            // Not before the handshake is complete, and then nothing more is offered.
            Ok(other) => {
                return Err(io::Error::other(format!(
                    "the TLS library is in the unexpected state {other:?}"
                )));
            }
            Err(error) => {
                report(&mut connection, &mut received, &mut output);
                send_at_once(&mut stream, &output).await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        };
        received.discard(discard);
        match step {
            Step::Continue => {}
            Step::Done if !connection.state().is_handshaking() => break,
            // A server may send before it has received the client's last message.
            Step::Done | Step::Read => {
                while !received.offer_more() {
                    read(&mut stream, &mut received.bytes).await?;
                }
            }
        }
    }
    let agreed = Agreed::new(connection.state())?;
    let (secrets, schedule) = connection.into_keys().map_err(io::Error::other)?;
    TlsStream::new(stream, agreed, C::SIDE, received.bytes, secrets, schedule)
        .map_err(io::Error::other)
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S, received: &mut Vec<u8>) -> io::Result<()> {
    if received.len() > MOST {
        let text = format!(
            "the peer sent {} bytes without completing it",
            received.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    received.reserve(READ);
    match (&mut *stream).take(READ as u64).read_buf(received).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Appends a message to the output.
fn encode<D>(message: &mut EncodeTlsData<'_, D>, output: &mut Vec<u8>) -> io::Result<()> {
    let start = output.len();
    loop {
        match message.encode(&mut output[start..]) {
            Ok(count) => {
                output.truncate(start + count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => {
                output.resize(start + size.required_size, 0);
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

/// Appends the alert about an error of the handshake to the output.
fn report<C: Handshake>(connection: &mut C, received: &mut Received, output: &mut Vec<u8>) {
    for _ in 0..ALERTS {
        match connection.process(received.offered()).state {
            Ok(ConnectionState::EncodeTlsData(mut message)) => {
                if encode(&mut message, output).is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// Writes what the stream accepts without waiting. The error of the handshake is the one that counts.
async fn send_at_once<S: AsyncWrite + Unpin>(stream: &mut S, output: &[u8]) {
    if output.is_empty() {
        return;
    }
    poll_fn(|context| {
        let _ = Pin::new(&mut *stream).poll_write(context, output);
        Poll::Ready(())
    })
    .await;
}

/// Received bytes. rustls is offered one record after the other, so that it does not decrypt data behind
/// the last message of the handshake.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    /// How many bytes are offered.
    offered: usize,
    /// The end of the last record that was offered completely.
    complete: usize,
}

impl Received {
    fn offered(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.offered]
    }

    fn discard(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.offered -= count;
        self.complete = self.complete.saturating_sub(count);
    }

    /// Offers the rest of a record, or the next record. False if no more bytes were received.
    fn offer_more(&mut self) -> bool {
        if let Some(end) = self.end_of_next() {
            if end <= self.offered {
                self.complete = end;
            }
        }
        let end = self.end_of_next().unwrap_or(usize::MAX);
        let before = self.offered;
        self.offered = end.min(self.bytes.len());
        self.offered > before
    }

    /// The end of the record after the complete ones. What is not a record is left to rustls, too.
    fn end_of_next(&self) -> Option<usize> {
        let header = self.bytes.get(self.complete..)?.first_chunk::<HEADER>()?;
        let content = usize::from(u16::from_be_bytes([header[3], header[4]]));
        Some(self.complete + HEADER + content)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_are_offered_one_by_one() {
        let record = |content: u8| {
            let mut record = vec![22, 3, 3, 0, content];
            record.extend(vec![content; usize::from(content)]);
            record
        };
        let stream: Vec<u8> = [3, 0, 7].into_iter().flat_map(record).collect();
        let mut received = Received::default();
        assert!(!received.offer_more());
        // An incomplete record is offered in parts.
        received.bytes.extend(&stream[..4]);
        assert!(received.offer_more());
        assert_eq!(received.offered().len(), 4);
        assert!(!received.offer_more());
        received.bytes.extend(&stream[4..]);
        for end in [8, 13, 25] {
            assert!(received.offer_more());
            assert_eq!(received.offered().len(), end);
        }
        assert!(!received.offer_more());
        received.discard(13);
        assert_eq!(received.offered().len(), 12);
        assert!(!received.offer_more());
        received.discard(12);
        assert!(received.bytes.is_empty());
        received.bytes.extend(&stream[..8]);
        assert!(received.offer_more());
        assert_eq!(received.offered().len(), 8);
    }
}
