//! One record to be sent, encrypted where it is.

use super::{HEADER, is_tls13, keys};
use ring::aead::{Aad, LessSafeKey, MAX_TAG_LEN, Nonce};
use rustls::crypto::cipher::{self, Iv, make_tls12_aad, make_tls13_aad};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite};

/// The bytes of an authentication tag: the same for all ciphers.
const TAG: usize = MAX_TAG_LEN;

/// How a record is laid out around its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// RFC 8446 §5.2: header, payload, type of the payload, tag.
    Tls13,
    /// RFC 5288 §3: header, a nonce of eight bytes, payload, tag.
    Gcm12,
    /// RFC 7905 §2: header, payload, tag.
    ChaCha12,
}

/// Encrypts records with one key.
pub(super) struct Sealer {
    key: LessSafeKey,
    iv: Iv,
    form: Form,
    /// The number of records that were sealed with this key.
    sequence: u64,
}

impl Sealer {
    pub(super) fn new(
        suite: SupportedCipherSuite,
        sequence: u64,
        secrets: ConnectionTrafficSecrets,
    ) -> Result<Self, Error> {
        let form = match &secrets {
            _ if is_tls13(suite) => Form::Tls13,
            ConnectionTrafficSecrets::Chacha20Poly1305 { .. } => Form::ChaCha12,
            _ => Form::Gcm12,
        };
        let (key, iv) = keys::sealing_key(secrets)?;
        Ok(Self {
            key,
            iv,
            form,
            sequence,
        })
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The bytes that a record has in front of its payload.
    pub(super) fn before(&self) -> usize {
        match self.form {
            Form::Gcm12 => HEADER + 8,
            Form::Tls13 | Form::ChaCha12 => HEADER,
        }
    }

    /// The bytes that a record has after its payload.
    pub(super) fn after(&self) -> usize {
        match self.form {
            Form::Tls13 => 1 + TAG,
            Form::Gcm12 | Form::ChaCha12 => TAG,
        }
    }

    /// Encrypts the payload of a record, and sets the bytes before and after it.
    pub(super) fn seal(&mut self, kind: ContentType, record: &mut [u8]) -> Result<(), Error> {
        let next = self.sequence.checked_add(1).ok_or(Error::EncryptError)?;
        let nonce = cipher::Nonce::new(&self.iv, self.sequence).0;
        let content = record.len() - HEADER;
        let payload = record.len() - self.before() - self.after();
        let tls12 = ProtocolVersion::TLSv1_2;
        let outer = match self.form {
            Form::Tls13 => ContentType::ApplicationData,
            Form::Gcm12 | Form::ChaCha12 => kind,
        };
        record[0] = outer.into();
        record[1..3].copy_from_slice(&u16::from(tls12).to_be_bytes());
        record[3..HEADER].copy_from_slice(&(content as u16).to_be_bytes());

        let (body, tag) = record.split_at_mut(HEADER + content - TAG);
        let body = &mut body[HEADER..];
        let nonce_of_key = Nonce::assume_unique_for_key(nonce);
        let sealed = match self.form {
            Form::Tls13 => {
                body[payload] = kind.into();
                let aad = Aad::from(make_tls13_aad(content));
                self.key.seal_in_place_separate_tag(nonce_of_key, aad, body)
            }
            Form::Gcm12 | Form::ChaCha12 => {
                let (explicit, body) = body.split_at_mut(body.len() - payload);
                explicit.copy_from_slice(&nonce[nonce.len() - explicit.len()..]);
                let aad = Aad::from(make_tls12_aad(self.sequence, kind, tls12, payload));
                self.key.seal_in_place_separate_tag(nonce_of_key, aad, body)
            }
        };
        // Whether or not that has succeeded, its nonce is used.
        self.sequence = next;
        tag.copy_from_slice(sealed.map_err(|_| Error::EncryptError)?.as_ref());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tls::record::keys::decrypter;
    use crate::tls::record::keys::fixed::{secrets, suites};
    use crate::tls::record::{Header, RECORD};
    use rustls::crypto::cipher::InboundOpaqueMessage;

    /// rustls's decryption is the reference.
    #[test]
    fn rustls_opens_what_is_sealed() {
        for suite in suites() {
            let mut sealer = Sealer::new(suite, 5, secrets(suite)).unwrap();
            let mut decrypter = decrypter(suite, secrets(suite)).unwrap();
            let lengths = [0, 1, 15, 16, 17, 1000, RECORD];
            for (number, length) in lengths.into_iter().enumerate() {
                let payload: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
                let mut record = vec![0; sealer.before()];
                record.extend(&payload);
                record.extend(vec![0; sealer.after()]);
                sealer
                    .seal(ContentType::ApplicationData, &mut record)
                    .unwrap();
                let header = Header::parse(&record).unwrap().unwrap();
                assert_eq!(header.content, record.len() - HEADER);
                let message =
                    InboundOpaqueMessage::new(header.kind, header.version, &mut record[HEADER..]);
                let plain = decrypter.decrypt(message, 5 + number as u64).unwrap();
                assert_eq!(plain.typ, ContentType::ApplicationData);
                assert!(plain.payload == payload, "{suite:?} {length}");
            }
            assert_eq!(sealer.sequence(), 5 + lengths.len() as u64);
        }
    }

    #[test]
    fn a_sequence_number_is_never_used_twice() {
        for suite in suites() {
            let mut sealer = Sealer::new(suite, u64::MAX - 1, secrets(suite)).unwrap();
            let mut record = vec![0; sealer.before() + 1 + sealer.after()];
            sealer.seal(ContentType::Alert, &mut record).unwrap();
            let before = record.clone();
            assert_eq!(
                sealer.seal(ContentType::Alert, &mut record),
                Err(Error::EncryptError)
            );
            assert_eq!(record, before);
        }
    }
}
