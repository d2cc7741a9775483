//! Why there is no TLS connection, in terms of the operator.

use super::Fingerprint;
use super::public_key::{USABLE_KEYS, UnusableKey};
use super::untrusted::{self, span};
use rustls::{
    AlertDescription, CertificateError, InvalidMessage, OtherError, PeerIncompatible,
    PeerMisbehaved,
};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// The node at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The node that the guest leaves; the TLS client.
    Source,
    /// The node that the guest moves to; the TLS server.
    Target,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}

/// Why there is no TLS connection.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The text is not a SHA-256 fingerprint.
    #[error(
        "'{0}' is not a SHA-256 fingerprint: it needs 64 hexadecimal digits, with or without colons"
    )]
    Fingerprint(String),
    /// The peer presented another certificate than the pinned one.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The system has no CA certificates.
    #[error("no CA certificates on this system ({0}): pin the target's fingerprint instead")]
    NoRoots(String),
    /// The host is neither a name nor an address.
    #[error("'{0}' is neither a host name nor an IP address")]
    Host(String),
    /// The certificate was not issued by one of the system's CAs, or not for this host.
    #[error(
        "the certificate of '{host}' is not trusted: {cause} (no fingerprint was given to pin it)"
    )]
    Untrusted {
        /// The requested host.
        host: String,
        /// What is wrong with the certificate.
        cause: String,
    },
    /// The certificate has a key that cannot be verified.
    #[error(
        "the certificate of '{host}' has {key}, whose signatures cannot be verified here: use a certificate with another key ({USABLE_KEYS})"
    )]
    Key {
        /// The requested host.
        host: String,
        /// The kind of the key, with an article.
        key: String,
    },
    /// The host refused the TLS handshake, because it shares no parameters with this node.
    #[error(
        "'{0}' and this node have nothing in common in TLS: this node supports TLS 1.3, TLS 1.2 with ECDHE and ChaCha20-Poly1305 or AES-GCM, the groups X25519, P-256 and P-384, and certificates with a key of {USABLE_KEYS}; change the certificate or the TLS settings of '{0}' (pveproxy: /etc/default/pveproxy)"
    )]
    NothingInCommon(String),
    /// The host supports only an older TLS.
    #[error("'{0}' supports neither TLS 1.2 nor TLS 1.3")]
    TooOld(String),
    /// The host has an RSASSA-PSS key, and does not support TLS 1.3.
    #[error(
        "the certificate of '{0}' has an RSASSA-PSS key, which is supported with TLS 1.3 only: allow TLS 1.3 at '{0}', or use a certificate with another key"
    )]
    PssBeforeTls13(String),
    /// The peer presented no certificate.
    #[error("the {0} presented no certificate")]
    NoCertificate(Peer),
    /// The pinned certificate has expired.
    #[error(
        "the {peer}'s certificate expired {} ago: compare the clocks of both nodes", span(*.ago)
    )]
    Expired {
        /// The node with the certificate.
        peer: Peer,
        /// By how much, by the clock of this node.
        ago: Duration,
    },
    /// The pinned certificate is not valid yet.
    #[error(
        "the {peer}'s certificate is not valid for another {}: compare the clocks of both nodes",
        span(*.ahead)
    )]
    NotYetValid {
        /// The node with the certificate.
        peer: Peer,
        /// By how much, by the clock of this node.
        ahead: Duration,
    },
    /// The peer presented the pinned certificate and does not have its key.
    #[error("the {0} presents the expected certificate but cannot sign with its key")]
    NoKey(Peer),
    /// The pinned certificate cannot be used.
    #[error("the {peer}'s certificate is the expected one but cannot be used: {cause}")]
    Unusable {
        /// The node with the certificate.
        peer: Peer,
        /// What is wrong with it.
        cause: String,
    },
    /// The peer of a direct connection supports only an older TLS.
    #[error("the {0} does not support TLS 1.3")]
    OldVersion(Peer),
    /// The peer uses another protocol.
    #[error("the data from the {0} is not TLS")]
    NotTls(Peer),
    /// The peer refused the handshake.
    #[error("the {peer} refused this connection: {reason}")]
    Refused {
        /// The node that refused.
        peer: Peer,
        /// Its reason.
        reason: String,
    },
    /// The peer closed the connection.
    #[error("the {0} closed the connection during the TLS handshake")]
    Ended(Peer),
    /// The handshake failed for another reason.
    #[error("TLS handshake failed: {0}")]
    Handshake(io::Error),
    /// No identity could be created.
    #[error("cannot create a one-time certificate: {0}")]
    Identity(#[from] rcgen::Error),
    /// The provider refuses the configuration.
    #[error("cannot configure TLS: {0}")]
    Configuration(#[from] rustls::Error),
}

/// A peer presented another certificate than the pinned one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the {peer}'s certificate has the fingerprint {actual}, expected {expected}")]
pub struct Mismatch {
    /// The node that presented it.
    pub peer: Peer,
    /// The pinned fingerprint.
    pub expected: Fingerprint,
    /// The fingerprint of the presented certificate.
    pub actual: Fingerprint,
}

impl TlsError {
    /// The alert that the peer of an established direct connection sent before it ended the connection, if
    /// `error` of a read or write is one.
    ///
    /// A target that does not accept the source's certificate reports it only in this way: see
    /// [`Client::handshake`](super::Client::handshake).
    pub fn from_alert(peer: Peer, error: &io::Error) -> Option<Self> {
        match tls(error)? {
            rustls::Error::AlertReceived(alert) => Some(refused(peer, *alert)),
            _ => None,
        }
    }

    /// The error of a handshake of a direct connection.
    pub(super) fn direct(peer: Peer, error: io::Error) -> Self {
        use rustls::Error as E;
        let Some(cause) = tls(&error) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof => Self::Ended(peer),
                _ => Self::Handshake(error),
            };
        };
        match cause {
            E::NoCertificatesPresented => Self::NoCertificate(peer),
            E::InvalidCertificate(cause) => Self::certificate(peer, cause),
            E::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::Tls13RequiredForQuic,
            ) => Self::OldVersion(peer),
            // The first bytes of another protocol, read as the header of a record, give these errors.
            E::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::InvalidEmptyPayload
                | InvalidMessage::MessageTooLarge
                | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls(peer),
            E::AlertReceived(alert) => refused(peer, *alert),
            _ => Self::Handshake(error),
        }
    }

    fn certificate(peer: Peer, cause: &CertificateError) -> Self {
        let unusable = || Self::Unusable {
            peer,
            cause: untrusted::cause(cause),
        };
        match cause {
            CertificateError::ExpiredContext { time, not_after } => Self::Expired {
                peer,
                ago: Duration::from_secs(time.as_secs().saturating_sub(not_after.as_secs())),
            },
            CertificateError::NotValidYetContext { time, not_before } => Self::NotYetValid {
                peer,
                ahead: Duration::from_secs(not_before.as_secs().saturating_sub(time.as_secs())),
            },
            CertificateError::BadSignature => Self::NoKey(peer),
            CertificateError::Other(OtherError(inner)) => match inner.downcast_ref::<Mismatch>() {
                Some(mismatch) => Self::Mismatch(mismatch.clone()),
                None => unusable(),
            },
            _ => unusable(),
        }
    }

    /// The error of a handshake with a host. `pinned`: whether its fingerprint was given.
    pub(super) fn with_host(host: &str, pinned: bool, error: io::Error) -> Self {
        use rustls::Error as E;
        match tls(&error) {
            Some(E::InvalidCertificate(CertificateError::Other(OtherError(inner))))
                if inner.is::<UnusableKey>() =>
            {
                Self::Key {
                    host: host.to_owned(),
                    key: inner.to_string(),
                }
            }
            Some(E::InvalidCertificate(cause)) if !pinned => Self::Untrusted {
                host: host.to_owned(),
                cause: untrusted::cause(cause),
            },
            Some(E::AlertReceived(
                AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity,
            )) => Self::NothingInCommon(host.to_owned()),
            Some(E::PeerMisbehaved(PeerMisbehaved::SignedKxWithWrongAlgorithm)) => {
                Self::PssBeforeTls13(host.to_owned())
            }
            _ => match Self::direct(Peer::Target, error) {
                Self::OldVersion(_) => Self::TooOld(host.to_owned()),
                other => other,
            },
        }
    }
}

impl From<Mismatch> for rustls::Error {
    fn from(mismatch: Mismatch) -> Self {
        CertificateError::Other(OtherError(Arc::new(mismatch))).into()
    }
}

fn tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The meaning of an alert (RFC 8446 §6.2). Implementations use different alerts for the same failure, so
/// all alerts about certificates count as one.
fn refused(peer: Peer, alert: AlertDescription) -> TlsError {
    use AlertDescription as A;
    let reason = match alert {
        A::ProtocolVersion => return TlsError::OldVersion(peer),
        A::CertificateExpired => {
            "this node's certificate is not valid by its clock: compare the clocks of both nodes"
                .to_owned()
        }
        A::CertificateRequired => "it requires a certificate".to_owned(),
        A::AccessDenied
        | A::BadCertificate
        | A::CertificateRevoked
        | A::CertificateUnknown
        | A::UnknownCA
        | A::UnsupportedCertificate => "it does not accept this node's certificate".to_owned(),
        A::UnrecognisedName => "it has no certificate for the requested name".to_owned(),
        A::HandshakeFailure => {
            "it has no cipher or key exchange in common with this node".to_owned()
        }
        other => format!("TLS alert {other:?}"),
    };
    TlsError::Refused { peer, reason }
}
