//! rustls configurations: system CAs or a pinned fingerprint.
//!
//! A pin replaces the chain of trust, as everywhere in Proxmox VE: the leaf certificate's SHA-256
//! is compared, names and validity times are not. Without a pin, the system's CAs vouch for the
//! host's name or address. TLS 1.2 and 1.3, no client certificate.

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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
    /// The handshake failed for another reason.
    #[error("TLS handshake failed: {0}")]
    Handshake(io::Error),
    /// The provider refuses the configuration.
    #[error("cannot configure TLS: {0}")]
    Configuration(#[from] rustls::Error),
}

/// A peer's certificate is not the pinned one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the target's certificate has the fingerprint {actual}, expected {expected}")]
pub struct Mismatch {
    /// What was pinned.
    pub expected: Fingerprint,
    /// What the peer presented.
    pub actual: Fingerprint,
}

/// SHA-256 of a certificate in DER. Written `AA:BB:…`; read in any case, with colons or without.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; SHA256_OUTPUT_LEN]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(bytes)
    }
}

impl FromStr for Fingerprint {
    type Err = TlsError;

    fn from_str(text: &str) -> Result<Self, TlsError> {
        let wrong = || TlsError::Fingerprint(text.chars().take(128).collect());
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        let text = text.trim();
        let digits: Vec<u8> = if text.contains(':') {
            let pairs: Vec<&str> = text.split(':').collect();
            if pairs.iter().any(|pair| pair.len() != 2) {
                return Err(wrong());
            }
            pairs.concat().into_bytes()
        } else {
            text.as_bytes().to_vec()
        };
        if digits.len() != 2 * bytes.len() {
            return Err(wrong());
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16);
            let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
                return Err(wrong());
            };
            *byte = (high * 16 + low) as u8;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let colon = if i == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How to recognise one target.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    /// Accepts exactly the certificate with this fingerprint or, without one, what the system's CAs
    /// vouch for.
    ///
    /// Reads the CA certificates from the system's files, which takes a few milliseconds.
    pub fn new(pin: Option<Fingerprint>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let config = match pin {
            Some(expected) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Pin { expected, provider }))
                .with_no_client_auth(),
            None => builder
                .with_root_certificates(system_roots()?)
                .with_no_client_auth(),
        };
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// The handshake over `stream` with `host`, a name or an address. The caller sets the time
    /// limit.
    pub async fn handshake<S>(&self, host: &str, stream: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))?;
        TlsConnector::from(self.config.clone())
            .connect(name, stream)
            .await
            .map_err(|error| explain(host, error))
    }
}

/// What TLS was agreed upon, for the log: protocol version and cipher suite.
pub fn describe<S>(stream: &TlsStream<S>) -> String {
    let (_, connection) = stream.get_ref();
    let version = connection
        .protocol_version()
        .and_then(|version| version.as_str());
    let suite = connection
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str());
    format!(
        "{} {}",
        version.unwrap_or("TLS"),
        suite.unwrap_or("unknown cipher")
    )
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // One unreadable file among the system's CAs is not our affair while others are there.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let cause = found
            .errors
            .first()
            .map_or("none found".to_owned(), ToString::to_string);
        return Err(TlsError::NoRoots(cause));
    }
    Ok(roots)
}

/// A handshake's error in the operator's words.
fn explain(host: &str, error: io::Error) -> TlsError {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) => {
            match inner.downcast_ref::<Mismatch>() {
                Some(mismatch) => TlsError::Mismatch(mismatch.clone()),
                None => TlsError::Handshake(error),
            }
        }
        Some(rustls::Error::InvalidCertificate(cause)) => TlsError::Untrusted {
            host: host.to_owned(),
            cause: cause.to_string(),
        },
        _ => TlsError::Handshake(error),
    }
}

/// Accepts one certificate, whoever signed it.
#[derive(Debug)]
struct Pin {
    expected: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let actual = Fingerprint::of(end_entity);
        if actual == self.expected {
            return Ok(ServerCertVerified::assertion());
        }
        let mismatch = Mismatch {
            expected: self.expected,
            actual,
        };
        Err(CertificateError::Other(OtherError(Arc::new(mismatch))).into())
    }

    // The pin says which certificate; that the peer owns its key is still proven here.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
