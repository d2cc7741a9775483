//! Who we are on a direct connection.

use super::{Fingerprint, TlsError};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, date_time_ymd};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// Subject and alternative name of the certificate. A peer goes by the fingerprint alone; this is
/// for whoever looks at a capture.
pub(super) const NAME: &str = "pve-tunnel";

/// How long a certificate has been valid when it is made: as much as the clocks of two clusters may
/// differ. Beyond that, somebody should look at the clocks.
const BACKDATED: Duration = Duration::from_secs(24 * 60 * 60);

/// How long it stays valid. Only new connections look at it, and a migration opens them until its
/// end: longer than any takes, and short enough that a process left behind for ever is not believed
/// for ever.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A key and its certificate, made for one migration.
///
/// The key is born in this process, is in no file and cannot be asked for. It is ECDSA P-256:
/// signing and checking take ring some 70 µs together, Ed25519 hardly less, and every TLS stack
/// has it, in FIPS mode too.
///
/// Its serialised form, which rcgen makes along with it, is wiped before the identity is handed
/// out; *ring*'s copy on the stack is overwritten by the signing that follows. The parsed form
/// stays in *ring*'s memory until identity, [`Client`] and [`Server`] are dropped, and that memory
/// is freed unwiped: so a process with an identity should not outlive its migration.
///
/// [`Client`]: super::Client
/// [`Server`]: super::Server
pub struct Identity {
    certified: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// A new one, valid from a day ago for thirty days. Takes less than a millisecond and no file
    /// descriptor.
    pub fn one_time() -> Result<Self, TlsError> {
        let now = SystemTime::now();
        // A clock before its second day has other troubles than these.
        let from = now.checked_sub(BACKDATED).unwrap_or(UNIX_EPOCH);
        Self::valid_between(from, now + LIFETIME)
    }

    /// One with another validity, to show what peers do when it is over: for tests.
    #[doc(hidden)]
    pub fn valid_between(from: SystemTime, until: SystemTime) -> Result<Self, TlsError> {
        let mut parameters = CertificateParams::new([NAME.to_owned()])?;
        parameters.distinguished_name.push(DnType::CommonName, NAME);
        parameters.not_before = date_time_ymd(1970, 1, 1) + since_epoch(from);
        parameters.not_after = date_time_ymd(1970, 1, 1) + since_epoch(until);
        // Neither key usages nor a CA flag: the same certificate is a client's and a server's. The
        // serial number is left to rcgen, which takes it from the key's hash.
        let pair = Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?);
        let certificate = parameters.self_signed(&pair)?.der().clone();
        // By reference: what wants the key by value would keep a copy that nobody wipes.
        let serialised = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialized_der()));
        let key = any_ecdsa_type(&serialised)?;
        Ok(Self {
            fingerprint: Fingerprint::of(&certificate),
            certified: Arc::new(CertifiedKey::new(vec![certificate], key)),
        })
    }

    /// What the peer has to be told, over a channel it trusts.
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
