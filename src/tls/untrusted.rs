//! Why a certificate is not accepted, in terms of the operator.

use rustls::{CertificateError, OtherError};
use std::time::Duration;

/// What is wrong with a certificate.
pub(super) fn cause(error: &CertificateError) -> String {
    use CertificateError as C;
    let text = match error {
        C::UnknownIssuer => "its issuer is not one of this system's CAs",
        C::ExpiredContext { time, not_after } => {
            let ago = time.as_secs().saturating_sub(not_after.as_secs());
            return format!("it expired {} ago", span(Duration::from_secs(ago)));
        }
        C::NotValidYetContext { time, not_before } => {
            let ahead = not_before.as_secs().saturating_sub(time.as_secs());
            let ahead = span(Duration::from_secs(ahead));
            return format!("it is not valid for another {ahead}");
        }
        C::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "it has no subject alternative name"
        }
        C::NotValidForNameContext { presented, .. } => {
            let names: Vec<&str> = presented.iter().map(|name| plain(name)).collect();
            return format!("it is for other names: {}", names.join(", "));
        }
        C::BadEncoding => "it is not a well-formed certificate",
        C::BadSignature => "a signature is wrong",
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => "it is not for servers",
        C::UnsupportedSignatureAlgorithmContext { .. }
        | C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "it has a signature that is not accepted, such as one with SHA-1"
        }
        C::Other(OtherError(inner)) => match inner.downcast_ref::<webpki::Error>() {
            Some(webpki::Error::UnsupportedCertVersion) => "it is not of X.509 version 3",
            Some(webpki::Error::UnsupportedCriticalExtension) => {
                "it has a critical extension that is not supported"
            }
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "it is the certificate of a CA and not of a node"
            }
            _ => return inner.to_string(),
        },
        other => return other.to_string(),
    };
    text.to_owned()
}

/// The name in a text such as `DnsName("pve.example")`, in which the library lists it.
fn plain(name: &str) -> &str {
    let inner = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// A time span, in the largest unit that gives at least two.
pub(super) fn span(span: Duration) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_without_the_form_of_the_library() {
        for (listed, expected) in [
            ("DnsName(\"pve.example\")", "pve.example"),
            ("IpAddress(192.0.2.7)", "192.0.2.7"),
            ("pve.example", "pve.example"),
            ("", ""),
        ] {
            assert_eq!(plain(listed), expected);
        }
    }
}
