//! One received record: decrypted where it is, and what it means.

use super::messages::{Message, Messages};
use super::{HEADER, Header, is_tls13, keys};
use rustls::crypto::cipher::{InboundOpaqueMessage, MessageDecrypter};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, InvalidMessage, PeerMisbehaved,
    Side, SupportedCipherSuite,
};
use std::ops::Range;

/// Most empty records in sequence; the limit of rustls.
const EMPTY: u8 = 32;

/// Most warnings on one connection; the limit of rustls and of BoringSSL.
const WARNINGS: u8 = 4;

/// What a record contained.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Data, at this place in the record. It may be empty.
    Data(Range<usize>),
    /// Messages, or a part of one. See [`Opener::next_message`].
    Messages,
    /// Something that needs no action.
    Nothing,
    /// The peer has ended this direction.
    End,
}

/// Decrypts records with one key after the other, and checks that they are allowed.
pub(in crate::tls) struct Opener {
    suite: SupportedCipherSuite,
    decrypter: Box<dyn MessageDecrypter>,
    sequence: u64,
    messages: Messages,
    empty: u8,
    warnings: u8,
}

impl Opener {
    /// `side` is this end's.
    pub(in crate::tls) fn new(
        suite: SupportedCipherSuite,
        side: Side,
        sequence: u64,
        secrets: ConnectionTrafficSecrets,
    ) -> Result<Self, Error> {
        Ok(Self {
            suite,
            decrypter: keys::decrypter(suite, secrets)?,
            sequence,
            messages: Messages::new(suite, side),
            empty: EMPTY,
            warnings: WARNINGS,
        })
    }

    /// Uses the peer's next key from the next record on.
    pub(super) fn change_key(&mut self, secrets: ConnectionTrafficSecrets) -> Result<(), Error> {
        self.decrypter = keys::decrypter(self.suite, secrets)?;
        self.sequence = 0;
        Ok(())
    }

    /// Decrypts a record.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<Opened, Error> {
        let Some(header) = Header::parse(record)? else {
            return Err(InvalidMessage::MessageTooShort.into());
        };
        if header.kind == ContentType::ChangeCipherSpec {
            // Both versions allow it during the handshake only.
            return Err(self.unexpected(header.kind));
        }
        let start = record.as_ptr() as usize;
        let content = &mut record[HEADER..];
        let message = InboundOpaqueMessage::new(header.kind, header.version, content);
        let next = self.sequence.checked_add(1).ok_or(Error::DecryptError)?;
        let plain = self.decrypter.decrypt(message, self.sequence)?;
        self.sequence = next;

        if self.messages.is_incomplete() && plain.typ != ContentType::Handshake {
            return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
        }
        if plain.payload.is_empty() {
            let left = self.empty.checked_sub(1);
            self.empty = left.ok_or(PeerMisbehaved::TooManyEmptyFragments)?;
        } else {
            self.empty = EMPTY;
        }
        match plain.typ {
            ContentType::ApplicationData => {
                self.messages.data();
                let start = plain.payload.as_ptr() as usize - start;
                Ok(Opened::Data(start..start + plain.payload.len()))
            }
            ContentType::Handshake => {
                self.messages.receive(plain.payload);
                Ok(Opened::Messages)
            }
            ContentType::Alert => {
                let payload = <[u8; 2]>::try_from(plain.payload);
                let [level, description] =
                    payload.map_err(|_| InvalidMessage::MissingData("alert"))?;
                self.alert(level, AlertDescription::from(description))
            }
            other => Err(self.unexpected(other)),
        }
    }

    /// Judges an alert (RFC 8446 §6; RFC 5246 §7.2).
    fn alert(&mut self, level: u8, alert: AlertDescription) -> Result<Opened, Error> {
        const WARNING: u8 = 1;
        if alert == AlertDescription::CloseNotify {
            return Ok(Opened::End);
        }
        // In TLS 1.3 the level has no meaning, and all alerts but these two are errors.
        let harmless = match is_tls13(self.suite) {
            true => alert == AlertDescription::UserCanceled,
            false => true,
        };
        if level != WARNING || !harmless {
            return Err(Error::AlertReceived(alert));
        }
        let left = self.warnings.checked_sub(1);
        self.warnings = left.ok_or(PeerMisbehaved::TooManyWarningAlertsReceived)?;
        Ok(Opened::Nothing)
    }

    /// The next complete message of those that [`open`](Self::open) has received.
    pub(super) fn next_message(&mut self) -> Result<Option<Message>, Error> {
        self.messages.next()
    }

    fn unexpected(&self, kind: ContentType) -> Error {
        Error::InappropriateMessage {
            expect_types: vec![ContentType::ApplicationData, ContentType::Alert],
            got_type: kind,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tls::record::keys::fixed::{secrets, suites};
    use crate::tls::record::messages::KEY_UPDATES;
    use crate::tls::record::seal::Sealer;
    use rustls::HandshakeType;

    const DATA: ContentType = ContentType::ApplicationData;
    const MESSAGES: ContentType = ContentType::Handshake;
    const ALERT: ContentType = ContentType::Alert;
    const UPDATE: &[u8] = &[24, 0, 0, 1, 0];

    /// A peer, and this end.
    struct Pair {
        sealer: Sealer,
        opener: Opener,
    }

    impl Pair {
        fn new(tls13: bool, side: Side) -> Self {
            let suite = suites()
                .into_iter()
                .find(|suite| is_tls13(*suite) == tls13)
                .unwrap();
            Self {
                sealer: Sealer::new(suite, 0, secrets(suite)).unwrap(),
                opener: Opener::new(suite, side, 0, secrets(suite)).unwrap(),
            }
        }

        fn seal(&mut self, kind: ContentType, payload: &[u8]) -> Vec<u8> {
            let mut record = vec![0; self.sealer.before()];
            record.extend(payload);
            record.extend(vec![0; self.sealer.after()]);
            self.sealer.seal(kind, &mut record).unwrap();
            record
        }

        fn receive(&mut self, kind: ContentType, payload: &[u8]) -> Result<Opened, Error> {
            let mut record = self.seal(kind, payload);
            let opened = self.opener.open(&mut record)?;
            if let Opened::Data(place) = &opened {
                assert_eq!(&record[place.clone()], payload);
            }
            Ok(opened)
        }

        fn messages(&mut self, payload: &[u8]) -> Result<Vec<Message>, Error> {
            self.receive(MESSAGES, payload)?;
            let mut messages = Vec::new();
            while let Some(message) = self.opener.next_message()? {
                messages.push(message);
            }
            Ok(messages)
        }
    }

    #[test]
    fn data_is_found_in_the_records_of_every_suite() {
        for suite in suites() {
            let mut pair = Pair {
                sealer: Sealer::new(suite, 7, secrets(suite)).unwrap(),
                opener: Opener::new(suite, Side::Server, 7, secrets(suite)).unwrap(),
            };
            for payload in [&b"x"[..], b"", &[7; 16_384]] {
                let opened = pair.receive(DATA, payload).unwrap();
                assert_eq!(opened, Opened::Data(HEADER..HEADER + payload.len()));
            }
            let mut damaged = pair.seal(DATA, b"some data");
            damaged[HEADER + 3] ^= 1;
            let error = pair.opener.open(&mut damaged).unwrap_err();
            assert_eq!(error, Error::DecryptError, "{suite:?}");
        }
    }

    #[test]
    fn messages_may_be_split_and_joined() {
        let ticket = [&[4, 0, 0, 3][..], b"abc"].concat();
        let stored = || Message::Ticket(b"abc".to_vec());
        let mut pair = Pair::new(true, Side::Client);
        let two = [&ticket[..], &ticket].concat();
        assert_eq!(pair.messages(&two).unwrap(), [stored(), stored()]);
        assert_eq!(pair.messages(&ticket[..2]).unwrap(), []);
        assert_eq!(pair.messages(&ticket[2..6]).unwrap(), []);
        let last = [&ticket[6..], UPDATE].concat();
        assert_eq!(
            pair.messages(&last).unwrap(),
            [stored(), Message::KeyUpdate { answer: false }]
        );
        assert_eq!(
            pair.messages(&[24, 0, 0, 1, 1]).unwrap(),
            [Message::KeyUpdate { answer: true }]
        );
    }

    #[test]
    fn a_forbidden_record_is_an_error() {
        use PeerMisbehaved as Peer;
        let unexpected_message = |kind: u8| Error::InappropriateHandshakeMessage {
            expect_types: vec![HandshakeType::KeyUpdate],
            got_type: HandshakeType::from(kind),
        };
        for (tls13, side, message, expected) in [
            (
                true,
                Side::Server,
                &[24, 0, 0, 1, 0, 24][..],
                Peer::KeyEpochWithPendingFragment.into(),
            ),
            (
                true,
                Side::Server,
                &[24, 0, 0, 1, 2],
                InvalidMessage::InvalidKeyUpdate.into(),
            ),
            (
                true,
                Side::Server,
                &[24, 0, 0, 0],
                InvalidMessage::InvalidKeyUpdate.into(),
            ),
            (true, Side::Server, &[4, 0, 0, 1, 0], unexpected_message(4)),
            (true, Side::Client, &[13, 0, 0, 0], unexpected_message(13)),
            (false, Side::Client, UPDATE, unexpected_message(24)),
            (false, Side::Server, &[1, 0, 0, 0], unexpected_message(1)),
            (
                true,
                Side::Client,
                &[4, 1, 0, 0],
                InvalidMessage::HandshakePayloadTooLarge.into(),
            ),
        ] {
            let error = Pair::new(tls13, side).messages(message).unwrap_err();
            assert_eq!(error, expected, "{message:?}");
        }

        let mut pair = Pair::new(true, Side::Server);
        pair.messages(&UPDATE[..3]).unwrap();
        let error = pair.receive(DATA, b"x").unwrap_err();
        assert_eq!(error, Peer::MessageInterleavedWithHandshakeMessage.into());

        for tls13 in [true, false] {
            let mut pair = Pair::new(tls13, Side::Client);
            let error = pair.opener.open(&mut [20, 3, 3, 0, 1, 1]).unwrap_err();
            assert!(matches!(error, Error::InappropriateMessage { .. }));
        }
    }

    #[test]
    fn alerts_are_judged_by_version() {
        use AlertDescription as Alert;
        let refused = |alert| Err(Error::AlertReceived(alert));
        for (tls13, level, alert, expected) in [
            (true, 1, Alert::CloseNotify, Ok(Opened::End)),
            (true, 2, Alert::CloseNotify, Ok(Opened::End)),
            (true, 1, Alert::UserCanceled, Ok(Opened::Nothing)),
            (true, 1, Alert::UnknownCA, refused(Alert::UnknownCA)),
            (true, 2, Alert::UnknownCA, refused(Alert::UnknownCA)),
            (false, 1, Alert::CloseNotify, Ok(Opened::End)),
            (false, 1, Alert::NoRenegotiation, Ok(Opened::Nothing)),
            (false, 2, Alert::DecodeError, refused(Alert::DecodeError)),
        ] {
            let mut pair = Pair::new(tls13, Side::Client);
            let result = pair.receive(ALERT, &[level, alert.into()]);
            assert_eq!(result, expected, "{tls13} {level} {alert:?}");
        }
        for payload in [&[1][..], &[1, 0, 0]] {
            let error = Pair::new(true, Side::Client).receive(ALERT, payload);
            assert!(matches!(error, Err(Error::InvalidMessage(_))));
        }
    }

    #[test]
    fn records_without_data_are_limited() {
        use PeerMisbehaved as Peer;
        let mut pair = Pair::new(true, Side::Server);
        for _ in 0..3 {
            for _ in 0..KEY_UPDATES {
                pair.messages(UPDATE).unwrap();
            }
            pair.receive(DATA, b"x").unwrap();
        }
        for _ in 0..KEY_UPDATES {
            pair.messages(UPDATE).unwrap();
        }
        let error = pair.messages(UPDATE).unwrap_err();
        assert_eq!(error, Peer::TooManyKeyUpdateRequests.into());

        let mut pair = Pair::new(true, Side::Server);
        for _ in 0..EMPTY {
            pair.receive(DATA, b"").unwrap();
        }
        let error = pair.receive(DATA, b"").unwrap_err();
        assert_eq!(error, Peer::TooManyEmptyFragments.into());

        let mut pair = Pair::new(false, Side::Client);
        let warning = [1, AlertDescription::UserCanceled.into()];
        for _ in 0..WARNINGS {
            pair.receive(ALERT, &warning).unwrap();
        }
        let error = pair.receive(ALERT, &warning).unwrap_err();
        assert_eq!(error, Peer::TooManyWarningAlertsReceived.into());

        let hello_request = [0, 0, 0, 0];
        assert_eq!(
            pair.messages(&hello_request).unwrap(),
            [Message::Renegotiation]
        );
        let error = pair.messages(&hello_request).unwrap_err();
        assert_eq!(error, Peer::TooManyRenegotiationRequests.into());
    }
}
