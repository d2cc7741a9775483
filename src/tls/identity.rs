//! The one-time identity of an end of a direct connection.

use super::{Fingerprint, TlsError};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, date_time_ymd};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// Subject and alternative name of the certificate. A peer checks the fingerprint only; the name is for
/// people who inspect a capture.
pub(super) const NAME: &str = "pve-tunnel";

/// How long before its creation a certificate is valid: as much as the clocks of two clusters may differ.
/// A larger difference is an error that the operator should fix.
const BACKDATED: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a certificate stays valid. New connections check it, and a migration opens connections until
/// its end. So this is longer than any migration, and short enough that a forgotten process loses its
/// identity.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A key and its certificate, made for one migration.
///
/// The key is made in this process, is not stored in a file and cannot be read out. It is ECDSA P-256:
/// signing and verifying take *ring* about 70 µs together, Ed25519 hardly less, and every TLS
/// implementation supports it, also in FIPS mode.
///
/// The serialised form that rcgen makes is wiped before the identity is returned; *ring*'s copy on the
/// stack is overwritten by the signing that follows. The parsed form stays in *ring*'s memory until the
/// identity, [`Client`] and [`Server`] are dropped, and that memory is freed without being wiped. So a
/// process with an identity should not outlive its migration.
///
/// [`Client`]: super::Client
/// [`Server`]: super::Server
pub struct Identity {
    certified: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// A new identity, valid from a day ago until in thirty days. Takes less than a millisecond and no
    /// file descriptor.
    pub fn one_time() -> Result<Self, TlsError> {
        let now = SystemTime::now();
        // Clocks before 1970-01-02 are not supported.
        let from = now.checked_sub(BACKDATED).unwrap_or(UNIX_EPOCH);
        Self::valid_between(from, now + LIFETIME)
    }

    /// An identity with another validity, for tests.
    #[doc(hidden)]
    pub fn valid_between(from: SystemTime, until: SystemTime) -> Result<Self, TlsError> {
        let mut parameters = CertificateParams::new([NAME.to_owned()])?;
        parameters.distinguished_name.push(DnType::CommonName, NAME);
        parameters.not_before = date_time_ymd(1970, 1, 1) + since_epoch(from);
        parameters.not_after = date_time_ymd(1970, 1, 1) + since_epoch(until);
        // No key usages and no CA flag: a certificate of the same kind serves client and server. rcgen
        // derives the serial number from the hash of the key.
        let pair = Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?);
        let certificate = parameters.self_signed(&pair)?.der().clone();
        // By reference: a function that takes the key by value would keep a copy that is not wiped.
        let serialised = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialized_der()));
        let key = any_ecdsa_type(&serialised)?;
        Ok(Self {
            fingerprint: Fingerprint::of(&certificate),
            certified: Arc::new(CertifiedKey::new(vec![certificate], key)),
        })
    }

    /// The fingerprint for the peer, to be sent over a channel that the peer trusts.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint)
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
