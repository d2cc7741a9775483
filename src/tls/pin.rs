//! Accepting the one-time certificate of a direct connection, independent of its issuer.

use super::{Fingerprint, Mismatch, Peer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// Accepts the certificate with this fingerprint. The handshake still proves that the peer has its key.
#[derive(Debug)]
pub(super) struct Pin {
    expected: Fingerprint,
    peer: Peer,
    provider: Arc<CryptoProvider>,
}

impl Pin {
    /// Accepts it within its validity.
    pub(super) fn new(expected: Fingerprint, peer: Peer) -> Self {
        Self {
            expected,
            peer,
            provider: Arc::new(ring::default_provider()),
        }
    }

    fn check(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let actual = Fingerprint::of(certificate);
        if actual != self.expected {
            let mismatch = Mismatch {
                peer: self.peer,
                expected: self.expected,
                actual,
            };
            return Err(mismatch.into());
        }
        // rustls checks the validity only together with a trust anchor, so the certificate is used as its
        // own anchor. It has to be of X.509 version 3, self-signed, and not a CA's. If it restricts the
        // usage of its key, the usage has to match.
        let mut anchors = RootCertStore::empty();
        anchors.add(certificate.clone().into_owned())?;
        match self.peer {
            Peer::Source => {
                let provider = self.provider.clone();
                WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), provider)
                    .build()
                    .map_err(|error| Error::General(error.to_string()))?
                    .verify_client_cert(certificate, &[], now)?;
            }
            Peer::Target => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(certificate)?,
                &anchors,
                &[],
                now,
                self.algorithms().all,
            )?,
        }
        Ok(())
    }

    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for Pin {
    /// No authority is named: certificates are recognised by fingerprint.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}
