//! Verifying the certificate of the target's API.

use super::public_key::{PSS_KEY_SCHEMES, PublicKey, UNUSABLE_SCHEMES, Version};
use super::{Fingerprint, Mismatch, Peer};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use std::sync::Arc;

/// Accepts certificates of a target's API. The handshake proves that the target has the key.
#[derive(Clone, Debug)]
pub(super) struct ApiCertificate {
    pub(super) trust: Trust,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// Whether signatures are offered that cannot be verified, so that the error names the key.
    pub(super) offers_unusable: bool,
}

/// Which certificates are accepted.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// The one with this fingerprint. Nothing else in it counts.
    Pinned(Fingerprint),
    /// Those of the system's CAs.
    Authorities(Arc<WebPkiServerVerifier>),
}

impl ServerCertVerifier for ApiCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let check_key = || PublicKey::of(end_entity)?.check(&self.algorithms);
        match &self.trust {
            Trust::Pinned(expected) => {
                let actual = Fingerprint::of(end_entity);
                if actual != *expected {
                    let mismatch = Mismatch {
                        peer: Peer::Target,
                        expected: *expected,
                        actual,
                    };
                    return Err(mismatch.into());
                }
                check_key()?;
                Ok(ServerCertVerified::assertion())
            }
            Trust::Authorities(verifier) => {
                // First, because a fingerprint would not help with such a key.
                check_key()?;
                verifier.verify_server_cert(
                    end_entity,
                    intermediates,
                    server_name,
                    ocsp_response,
                    now,
                )
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        PublicKey::of(cert)?.verify(Version::Tls12, message, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        PublicKey::of(cert)?.verify(Version::Tls13, message, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.algorithms.supported_schemes();
        schemes.extend(PSS_KEY_SCHEMES.map(|pair| pair.0));
        if self.offers_unusable {
            schemes.extend(UNUSABLE_SCHEMES);
        }
        schemes
    }
}
