//! Why there is no TLS connection, in the operator's words.

use super::Fingerprint;
use rustls::{AlertDescription, CertificateError, InvalidMessage, OtherError, PeerIncompatible};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Which node of the migration is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The node that the guest leaves: the client.
    Source,
    /// The node that the guest goes to: the server.
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
    /// The peer is not who was pinned.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// There are no CAs to verify anybody with.
    #[error("no CA certificates on this system ({0}): pin the target's fingerprint instead")]
    NoRoots(String),
    /// The host is neither a name nor an address.
    #[error("'{0}' is neither a host name nor an IP address")]
    Host(String),
    /// The system CAs do not vouch for the peer.
    #[error(
        "the certificate of '{host}' is not trusted: {cause} (no fingerprint was given to pin it)"
    )]
    Untrusted {
        /// Whom we asked for.
        host: String,
        /// What is wrong with the certificate.
        cause: String,
    },
    /// The peer of a direct connection did not say who it is.
    #[error("the {0} presented no certificate")]
    NoCertificate(Peer),
    /// The pinned certificate, after its time.
    #[error(
        "the {peer}'s certificate expired {} ago: compare the clocks of both nodes", span(*.ago)
    )]
    Expired {
        /// Whose certificate.
        peer: Peer,
        /// For how long, by our clock.
        ago: Duration,
    },
    /// The pinned certificate, before its time.
    #[error(
        "the {peer}'s certificate is not valid for another {}: compare the clocks of both nodes",
        span(*.ahead)
    )]
    NotYetValid {
        /// Whose certificate.
        peer: Peer,
        /// For how long, by our clock.
        ahead: Duration,
    },
    /// The pinned certificate in the hands of somebody who has not its key.
    #[error("the {0} shows the expected certificate but cannot sign with its key")]
    NoKey(Peer),
    /// The pinned certificate, but not one that a peer can be recognised by.
    #[error("the {peer}'s certificate is the expected one but cannot be used: {cause}")]
    Unusable {
        /// Whose certificate.
        peer: Peer,
        /// What is wrong with it.
        cause: String,
    },
    /// The peer of a direct connection speaks an older TLS.
    #[error("the {0} does not speak TLS 1.3")]
    OldVersion(Peer),
    /// The peer of a direct connection speaks something else.
    #[error("what the {0} sent is not TLS")]
    NotTls(Peer),
    /// The peer of a direct connection does not want us.
    #[error("the {peer} refused this connection: {reason}")]
    Refused {
        /// Who refused.
        peer: Peer,
        /// What it said.
        reason: String,
    },
    /// The peer of a direct connection went away.
    #[error("the {0} closed the connection during the TLS handshake")]
    Ended(Peer),
    /// The handshake failed for another reason.
    #[error("TLS handshake failed: {0}")]
    Handshake(io::Error),
    /// No identity could be made.
    #[error("cannot make a one-time certificate: {0}")]
    Identity(#[from] rcgen::Error),
    /// The provider refuses the configuration.
    #[error("cannot configure TLS: {0}")]
    Configuration(#[from] rustls::Error),
}

/// A peer's certificate is not the pinned one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the {peer}'s certificate has the fingerprint {actual}, expected {expected}")]
pub struct Mismatch {
    /// Who presented it.
    pub peer: Peer,
    /// What was pinned.
    pub expected: Fingerprint,
    /// What the peer presented.
    pub actual: Fingerprint,
}

impl TlsError {
    /// What the peer of an established direct connection said before it ended it, if `error`, from
    /// reading or writing there, is that.
    ///
    /// A target that does not accept the source's certificate is heard of in no other way: see
    /// [`Client::handshake`](super::Client::handshake).
    pub fn from_alert(peer: Peer, error: &io::Error) -> Option<Self> {
        match tls(error)? {
            rustls::Error::AlertReceived(alert) => Some(refused(peer, *alert)),
            _ => None,
        }
    }

    /// A direct handshake's error.
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
            // What the first bytes of a stranger look like when they are read as a record's header.
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
                None => Self::Unusable {
                    peer,
                    cause: inner.to_string(),
                },
            },
            other => Self::Unusable {
                peer,
                cause: other.to_string(),
            },
        }
    }

    /// The error of a handshake with a host that was asked for by name.
    pub(super) fn with_host(host: &str, error: io::Error) -> Self {
        match tls(&error) {
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) => {
                match inner.downcast_ref::<Mismatch>() {
                    Some(mismatch) => Self::Mismatch(mismatch.clone()),
                    None => Self::Handshake(error),
                }
            }
            Some(rustls::Error::InvalidCertificate(cause)) => Self::Untrusted {
                host: host.to_owned(),
                cause: cause.to_string(),
            },
            _ => Self::Handshake(error),
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

/// What the peer's last word means here (RFC 8446 §6.2). Which alert stands for which failing is
/// not the same in every implementation, so those about certificates are one.
fn refused(peer: Peer, alert: AlertDescription) -> TlsError {
    use AlertDescription as A;
    let reason = match alert {
        A::ProtocolVersion => return TlsError::OldVersion(peer),
        A::CertificateExpired => {
            "our certificate is not valid by its clock: compare the clocks of both nodes".to_owned()
        }
        A::CertificateRequired => "it wants a certificate".to_owned(),
        A::AccessDenied
        | A::BadCertificate
        | A::CertificateRevoked
        | A::CertificateUnknown
        | A::UnknownCA
        | A::UnsupportedCertificate => "it does not accept our certificate".to_owned(),
        A::HandshakeFailure => "it has no cipher or key exchange in common with us".to_owned(),
        other => format!("TLS alert {other:?}"),
    };
    TlsError::Refused { peer, reason }
}

/// A time span in the largest unit of which there are at least two.
fn span(span: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match span.as_secs() {
        seconds if seconds < 2 * MINUTE => format!("{seconds} s"),
        seconds if seconds < 2 * HOUR => format!("{} min", seconds / MINUTE),
        seconds if seconds < 2 * DAY => format!("{} h", seconds / HOUR),
        seconds => format!("{} days", seconds / DAY),
    }
}
