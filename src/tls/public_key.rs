//! The public key of a certificate, and the signatures of handshakes that it verifies.
//!
//! With a pinned fingerprint only the possession of the key counts. So this reads the key and nothing
//! else: certificates of X.509 version 1 or with unknown critical extensions, which webpki refuses,
//! have a usable key.

use ring::io::der::{self, Tag};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, alg_id};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerMisbehaved, SignatureScheme,
};
use std::fmt;
use std::sync::Arc;
use thiserror::Error;
use untrusted::{Input, Reader};

/// The keys that *ring* can verify signatures of, for messages.
pub(super) const USABLE_KEYS: &str = "RSA with 2048 to 8192 bits, P-256, P-384 or Ed25519";

/// The sizes of RSA keys that *ring* accepts, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// `id-RSASSA-PSS` (RFC 8017): an RSA key for PSS signatures only.
const RSASSA_PSS: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];

/// `rsaEncryption` (RFC 8017).
const RSA_ENCRYPTION: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// The signatures of RSASSA-PSS keys (RFC 8446 §4.2.3), which rustls has no names for, and the schemes
/// with the same algorithm for other RSA keys. The handshake of TLS 1.2 does not support them in rustls.
pub(super) const PSS_KEY_SCHEMES: [(SignatureScheme, SignatureScheme); 3] = [
    (
        SignatureScheme::Unknown(0x0809),
        SignatureScheme::RSA_PSS_SHA256,
    ),
    (
        SignatureScheme::Unknown(0x080a),
        SignatureScheme::RSA_PSS_SHA384,
    ),
    (
        SignatureScheme::Unknown(0x080b),
        SignatureScheme::RSA_PSS_SHA512,
    ),
];

/// Signatures that cannot be verified. A client that offers them receives the certificate with a key of
/// these kinds, and can name it. Without them the server only sends the alert `handshake_failure`.
pub(super) const UNUSABLE_SCHEMES: [SignatureScheme; 2] = [
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED448,
];

/// The peer's key is of a kind that cannot be verified.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub(super) struct UnusableKey(pub(super) String);

/// The version of the handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Tls12,
    Tls13,
}

/// The public key of a certificate.
pub(super) struct PublicKey<'a> {
    /// The content of its AlgorithmIdentifier: an OID and parameters.
    algorithm: &'a [u8],
    oid: &'a [u8],
    key: &'a [u8],
}

impl<'a> PublicKey<'a> {
    /// Reads the key from a certificate (RFC 5280 §4.1).
    pub(super) fn of(certificate: &'a CertificateDer<'a>) -> Result<Self, Error> {
        Self::read(certificate).map_err(|_| CertificateError::BadEncoding.into())
    }

    fn read(certificate: &'a [u8]) -> Result<Self, ring::error::Unspecified> {
        const VERSION: u8 = Tag::ContextSpecificConstructed0 as u8;
        let sequence =
            |reader: &mut Reader<'a>| der::expect_tag_and_get_value(reader, Tag::Sequence);
        let certificate = sequence(&mut Reader::new(Input::from(certificate)))?;
        let mut tbs = Reader::new(sequence(&mut Reader::new(certificate))?);
        if tbs.peek(VERSION) {
            der::read_tag_and_get_value(&mut tbs)?;
        }
        // Serial number, signature algorithm, issuer, validity, subject.
        for _ in 0..5 {
            der::read_tag_and_get_value(&mut tbs)?;
        }
        let mut info = Reader::new(sequence(&mut tbs)?);
        let algorithm = sequence(&mut info)?;
        let oid = der::expect_tag_and_get_value(&mut Reader::new(algorithm), Tag::OID)?;
        let key = der::bit_string_with_no_unused_bits(&mut info)?;
        Ok(Self {
            algorithm: algorithm.as_slice_less_safe(),
            oid: oid.as_slice_less_safe(),
            key: key.as_slice_less_safe(),
        })
    }

    /// Refuses a key that cannot be verified, and names it.
    pub(super) fn check(&self, algorithms: &WebPkiSupportedAlgorithms) -> Result<(), Error> {
        let usable = match self.rsa_bits() {
            Some(bits) => RSA_BITS.contains(&bits),
            None => algorithms
                .all
                .iter()
                .any(|algorithm| self.is_for(*algorithm)),
        };
        if usable {
            return Ok(());
        }
        let unusable = UnusableKey(self.to_string());
        Err(CertificateError::Other(OtherError(Arc::new(unusable))).into())
    }

    /// Verifies the signature of a handshake, which proves that the peer has the private key.
    pub(super) fn verify(
        &self,
        version: Version,
        message: &[u8],
        signed: &DigitallySignedStruct,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.algorithm(version, signed.scheme, algorithms)
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?
            .verify_signature(self.key, message, signed.signature())
            .map_err(|_| CertificateError::BadSignature)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// The algorithm that verifies a signature of this scheme with this key, if they belong together.
    fn algorithm(
        &self,
        version: Version,
        scheme: SignatureScheme,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Option<&'static dyn SignatureVerificationAlgorithm> {
        use SignatureScheme as S;
        let for_pss_keys = PSS_KEY_SCHEMES.iter().find(|pair| pair.0 == scheme);
        if for_pss_keys.is_some() != (self.oid == RSASSA_PSS) {
            return None;
        }
        let scheme = for_pss_keys.map_or(scheme, |pair| pair.1);
        let (_, found) = algorithms.mapping.iter().find(|item| item.0 == scheme)?;
        let candidates = match version {
            // There a scheme does not determine the curve of the key.
            Version::Tls12 => found,
            // RFC 8446 §4.2.3.
            Version::Tls13 => match scheme {
                S::RSA_PKCS1_SHA256 | S::RSA_PKCS1_SHA384 | S::RSA_PKCS1_SHA512 => return None,
                _ => found.get(..1)?,
            },
        };
        candidates
            .iter()
            .copied()
            .find(|candidate| self.is_for(*candidate))
    }

    fn is_for(&self, algorithm: &dyn SignatureVerificationAlgorithm) -> bool {
        let expected = algorithm.public_key_alg_id();
        if self.rsa_bits().is_some() {
            return expected == alg_id::RSA_ENCRYPTION;
        }
        expected.as_ref() == self.algorithm
    }

    /// The size of an RSA key.
    fn rsa_bits(&self) -> Option<usize> {
        if self.oid != RSA_ENCRYPTION && self.oid != RSASSA_PSS {
            return None;
        }
        let mut outer = Reader::new(Input::from(self.key));
        let key = der::expect_tag_and_get_value(&mut outer, Tag::Sequence).ok()?;
        let modulus = der::positive_integer(&mut Reader::new(key)).ok()?;
        let bytes = modulus.big_endian_without_leading_zero();
        let leading = bytes.first()?.leading_zeros() as usize;
        Some(8 * bytes.len() - leading)
    }
}

/// With an article, as in "a P-521 key".
impl fmt::Display for PublicKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (alg_id::ECDSA_P521, "a P-521 key"),
            (alg_id::ECDSA_P256K1, "a secp256k1 key"),
            (alg_id::ED448, "an Ed448 key"),
            (alg_id::ML_DSA_44, "an ML-DSA-44 key"),
            (alg_id::ML_DSA_65, "an ML-DSA-65 key"),
            (alg_id::ML_DSA_87, "an ML-DSA-87 key"),
        ];
        if let Some(bits) = self.rsa_bits() {
            return write!(f, "an RSA key with {bits} bits");
        }
        match names.iter().find(|(id, _)| id.as_ref() == self.algorithm) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "a key of the type {}", Hex(self.algorithm)),
        }
    }
}

/// An AlgorithmIdentifier without a name, which `openssl asn1parse` shows in words.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 32;
        for byte in self.0.iter().take(LONGEST) {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}
