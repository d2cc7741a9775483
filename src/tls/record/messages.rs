//! The messages after the handshake.

use super::is_tls13;
use rustls::{Error, HandshakeType, InvalidMessage, PeerMisbehaved, Side, SupportedCipherSuite};

/// Most bytes of a message; the limit of rustls.
const MOST: usize = 0xffff;

/// Bytes in front of a message: its type and its length.
const HEADER: usize = 4;

/// Most key updates without data between them; the limit of rustls and of BoringSSL.
pub(super) const KEY_UPDATES: u8 = 32;

/// A message after the handshake.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The peer's next record uses its next key. `answer`: the peer requests the same from this end.
    KeyUpdate { answer: bool },
    /// A ticket of a server.
    Ticket(Vec<u8>),
    /// The request of a server to repeat the handshake (TLS 1.2).
    Renegotiation,
}

/// Joins the messages that records contain, and checks that they are allowed.
pub(super) struct Messages {
    tls13: bool,
    side: Side,
    /// Messages that were not taken, of which the last one may continue in the next record.
    bytes: Vec<u8>,
    key_updates: u8,
    renegotiations: u8,
}

impl Messages {
    /// `side` is this end's.
    pub(super) fn new(suite: SupportedCipherSuite, side: Side) -> Self {
        Self {
            tls13: is_tls13(suite),
            side,
            bytes: Vec::new(),
            key_updates: KEY_UPDATES,
            renegotiations: 1,
        }
    }

    /// Whether a part of a message was received.
    pub(super) fn is_incomplete(&self) -> bool {
        !self.bytes.is_empty()
    }

    pub(super) fn receive(&mut self, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
    }

    /// Data was received.
    pub(super) fn data(&mut self) {
        self.key_updates = KEY_UPDATES;
    }

    /// Takes the next complete message.
    pub(super) fn next(&mut self) -> Result<Option<Message>, Error> {
        let Some(&[kind, a, b, c]) = self.bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > MOST {
            return Err(InvalidMessage::HandshakePayloadTooLarge.into());
        }
        let whole = HEADER + length;
        if self.bytes.len() < whole {
            return Ok(None);
        }
        let rest = self.bytes.split_off(whole);
        let message = std::mem::replace(&mut self.bytes, rest);
        self.judge(HandshakeType::from(kind), &message[HEADER..])
            .map(Some)
    }

    fn judge(&mut self, kind: HandshakeType, payload: &[u8]) -> Result<Message, Error> {
        let tls13 = self.tls13;
        match (kind, payload) {
            (HandshakeType::KeyUpdate, _) if tls13 => {
                let left = self.key_updates.checked_sub(1);
                self.key_updates = left.ok_or(PeerMisbehaved::TooManyKeyUpdateRequests)?;
                if !self.bytes.is_empty() {
                    return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
                }
                match payload {
                    [0] => Ok(Message::KeyUpdate { answer: false }),
                    [1] => Ok(Message::KeyUpdate { answer: true }),
                    _ => Err(InvalidMessage::InvalidKeyUpdate.into()),
                }
            }
            (HandshakeType::NewSessionTicket, _) if tls13 && self.side == Side::Client => {
                Ok(Message::Ticket(payload.to_vec()))
            }
            (HandshakeType::HelloRequest, []) if !tls13 && self.side == Side::Client => {
                let left = self.renegotiations.checked_sub(1);
                self.renegotiations = left.ok_or(PeerMisbehaved::TooManyRenegotiationRequests)?;
                Ok(Message::Renegotiation)
            }
            _ => Err(Error::InappropriateHandshakeMessage {
                expect_types: vec![HandshakeType::KeyUpdate],
                got_type: kind,
            }),
        }
    }
}
