//! The key of one migration.

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use std::io;
use zeroize::Zeroizing;

/// Bytes of a session key, of a nonce and of a proof: those of SHA-256.
pub(crate) const LEN: usize = 32;

/// What the source needs to connect. The listener makes it and sends it over the control plane. It
/// is wiped when dropped, and its `Debug` output does not contain it. It is boxed, because moving an
/// array leaves a copy.
#[derive(Clone)]
pub struct SessionKey(Box<Zeroizing<[u8; LEN]>>);

impl SessionKey {
    /// A new random key.
    ///
    /// # Errors
    /// The system provides no random bytes.
    pub fn generate() -> io::Result<Self> {
        let mut bytes = Box::new(Zeroizing::new([0; LEN]));
        random(&mut **bytes)?;
        Ok(Self(bytes))
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 2 * LEN || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = Box::new(Zeroizing::new([0; LEN]));
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Its 64 hexadecimal digits, for the one message that carries it.
    pub fn to_hex(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(2 * LEN));
        for byte in self.0.iter() {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
            }
        }
        text
    }

    /// The proof for one connection: HMAC-SHA-256 over `nonce` and what the connection is for.
    pub(crate) fn prove(&self, nonce: &[u8; LEN], purpose: &[u8]) -> [u8; LEN] {
        let mut proof = [0; LEN];
        proof.copy_from_slice(hmac::sign(&self.hmac(), &signed(nonce, purpose)).as_ref());
        proof
    }

    /// Whether a proof is right. Takes the same time for every wrong proof.
    pub(crate) fn verify(&self, nonce: &[u8; LEN], purpose: &[u8], proof: &[u8]) -> bool {
        hmac::verify(&self.hmac(), &signed(nonce, purpose), proof).is_ok()
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &**self.0)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[session key]")
    }
}

/// Fills a buffer with random bytes of the system.
pub(crate) fn random(buffer: &mut [u8]) -> io::Result<()> {
    SystemRandom::new()
        .fill(buffer)
        .map_err(|_| io::Error::other("the system provides no random bytes"))
}

fn signed(nonce: &[u8; LEN], purpose: &[u8]) -> Vec<u8> {
    [nonce, purpose].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_can_be_read_from_its_hex_and_from_no_other_text() {
        let key = SessionKey::generate().unwrap();
        let hex = key.to_hex();
        assert_eq!(hex.len(), 64);
        assert_eq!(
            SessionKey::from_hex(&hex.to_uppercase()).unwrap().0,
            key.0,
            "either case"
        );
        for wrong in ["", "ab", &hex[1..], &format!("{}x", &hex[1..])] {
            assert!(SessionKey::from_hex(wrong).is_none(), "{wrong}");
        }
        assert!(SessionKey::from_hex(&"ä".repeat(32)).is_none());
        assert!(!format!("{key:?}").contains(&hex[..8]));
    }

    #[test]
    fn a_proof_is_for_one_key_one_nonce_and_one_purpose() {
        let (key, other) = (
            SessionKey::generate().unwrap(),
            SessionKey::generate().unwrap(),
        );
        let proof = key.prove(&[1; LEN], &[7]);
        assert!(key.verify(&[1; LEN], &[7], &proof));
        assert!(!other.verify(&[1; LEN], &[7], &proof));
        assert!(!key.verify(&[2; LEN], &[7], &proof));
        assert!(!key.verify(&[1; LEN], &[8], &proof));
        assert!(!key.verify(&[1; LEN], &[7], &proof[..31]));
    }
}
