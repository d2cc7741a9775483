//! The record layer of an established connection (RFC 8446 §5; RFC 5246 §6.2 for TLS 1.2).
//!
//! rustls completes the handshake, derives the keys and provides the ciphers for received records. Its
//! own record layer copies: received plaintext twice (once with the unbuffered interface), plaintext to
//! be sent once (twice with that interface), each time into memory that it allocates. So the records are
//! handled here, each in the buffer into which it was read, or from which it is written. The keys come
//! from [`rustls::kernel`], the interface for this use.
//!
//! * `buffer`: received bytes, and where the next record is
//! * `open`: one received record
//! * `messages`: the messages in received records
//! * `receiver`: from the connection to plaintext
//! * `seal`: one record to be sent
//! * `sender`: from plaintext to the connection
//! * `keys`: the keys of both directions, and their changes

mod buffer;
#[cfg(fuzzing)]
mod fuzzing;
mod keys;
mod messages;
mod open;
mod receiver;
mod seal;
mod sender;

#[cfg(fuzzing)]
pub(crate) use fuzzing::receive;
pub(super) use keys::KeySchedule;
pub(super) use open::Opener;
pub(crate) use receiver::Receiver;
pub(crate) use sender::Sender;
pub(super) use sender::{ADVICE, data_limit};

use rustls::{
    AlertDescription, ContentType, Error, InvalidMessage, PeerMisbehaved, ProtocolVersion,
    SupportedCipherSuite,
};
use std::io;

/// Bytes in front of a record's content: its type, version and length.
pub(super) const HEADER: usize = 5;

/// Most plaintext of a record, in bytes (RFC 8446 §5.1).
pub(super) const RECORD: usize = 16 << 10;

/// The content of an encrypted record must be shorter (RFC 5246 §6.2.3; the limit of TLS 1.3 is lower).
const CONTENT: usize = RECORD + (2 << 10);

/// Full records that are read or written at once.
const RECORDS: usize = 8;

/// A full record of TLS 1.3 with its header, its inner type and its tag.
const FULL: usize = RecordLayout::BEFORE + RECORD + RecordLayout::AFTER;

/// How a buffer is laid out whose records [`Sender::seal_in_place`] encrypts.
pub(crate) enum RecordLayout {}

impl RecordLayout {
    /// Bytes in front of a record's payload.
    pub(crate) const BEFORE: usize = HEADER;
    /// Most payload of a record.
    pub(crate) const PAYLOAD: usize = RECORD;
    /// Bytes after a record's payload: its inner type and its tag.
    pub(crate) const AFTER: usize = 1 + 16;
    /// Records in a buffer.
    pub(crate) const RECORDS: usize = RECORDS;
}

/// The header of a received record.
struct Header {
    kind: ContentType,
    version: ProtocolVersion,
    content: usize,
}

impl Header {
    /// The header at the start of these bytes. None if they are too few.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Error> {
        let Some(&[kind, major, minor, high, low]) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let header = Self {
            kind: ContentType::from(kind),
            version: ProtocolVersion::from(u16::from_be_bytes([major, minor])),
            content: usize::from(u16::from_be_bytes([high, low])),
        };
        let problem = match header {
            Self {
                kind: ContentType::Unknown(_),
                ..
            } => InvalidMessage::InvalidContentType,
            _ if major != 3 => InvalidMessage::UnknownProtocolVersion,
            Self {
                content: 0, kind, ..
            } if kind != ContentType::ApplicationData => InvalidMessage::InvalidEmptyPayload,
            Self { content, .. } if content >= CONTENT => InvalidMessage::MessageTooLarge,
            _ => return Ok(Some(header)),
        };
        Err(problem.into())
    }
}

/// Whether the connection uses TLS 1.3.
fn is_tls13(suite: SupportedCipherSuite) -> bool {
    suite.tls13().is_some()
}

/// The error of a read or write that rustls reports in this form, too.
fn as_io(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The alert that reports an error of receiving to the peer (RFC 8446 §6.2). None if the peer has sent
/// the error.
fn alert_of(error: &Error) -> Option<AlertDescription> {
    Some(match error {
        Error::AlertReceived(_) => return None,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate) => {
            AlertDescription::IllegalParameter
        }
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(
            PeerMisbehaved::IllegalMiddleboxChangeCipherSpec
            | PeerMisbehaved::IllegalTlsInnerPlaintext
            | PeerMisbehaved::KeyEpochWithPendingFragment
            | PeerMisbehaved::MessageInterleavedWithHandshakeMessage
            | PeerMisbehaved::TooManyEmptyFragments
            | PeerMisbehaved::TooManyKeyUpdateRequests
            | PeerMisbehaved::TooManyRenegotiationRequests
            | PeerMisbehaved::TooManyWarningAlertsReceived,
        ) => AlertDescription::UnexpectedMessage,
        _ => AlertDescription::InternalError,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_header_is_parsed_or_reported() {
        for (bytes, expected) in [
            (&b""[..], None),
            (b"\x17\x03\x03\x40", None),
            (b"\x17\x03\x03\x40\x11", Some(0x4011)),
            (b"\x17\x03\x03\x00\x00", Some(0)),
            (b"\x15\x03\x01\x00\x02rest", Some(2)),
            (b"\x17\x03\x03\x47\xff", Some(CONTENT - 1)),
        ] {
            let header = Header::parse(bytes).unwrap();
            assert_eq!(header.map(|header| header.content), expected, "{bytes:?}");
        }
        for (bytes, expected) in [
            (&b"SSH-2.0"[..], InvalidMessage::InvalidContentType),
            (
                b"\x17\x02\x00\x00\x05",
                InvalidMessage::UnknownProtocolVersion,
            ),
            (b"\x15\x03\x03\x00\x00", InvalidMessage::InvalidEmptyPayload),
            (b"\x17\x03\x03\x48\x00", InvalidMessage::MessageTooLarge),
        ] {
            let error = Header::parse(bytes).err();
            assert_eq!(error, Some(expected.into()), "{bytes:?}");
        }
    }
}
