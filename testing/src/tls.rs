//! Both ends of direct TLS connections in this process, and peers that do not verify certificates.

use pve_tunnel::tls::{Client, Identity, Peer, Server, TlsError, TlsStream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    SupportedCipherSuite, SupportedProtocolVersion, Tls12CipherSuite, Tls13CipherSuite,
};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Much longer than any step of a test takes.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(20);

pub type Outcome<T> = Result<T, TlsError>;
pub type Stream = TlsStream<UnixStream>;

/// Runs a handshake. Returns the result of each end: the source's and the target's.
pub async fn complete_handshake(
    client: &Client,
    server: &Server,
) -> (Outcome<Stream>, Outcome<Stream>) {
    let (near, far) = UnixStream::pair().unwrap();
    let both = async { tokio::join!(client.handshake("192.0.2.7", near), server.handshake(far)) };
    timeout(STEP_TIMEOUT, both).await.unwrap()
}

/// One-time identities of a source and of a target.
pub fn identities() -> (Identity, Identity) {
    (Identity::one_time().unwrap(), Identity::one_time().unwrap())
}

/// The source's client and the target's server. Each pins the other's fingerprint.
pub fn pinned_pair(source: &Identity, target: &Identity) -> (Client, Server) {
    (
        Client::direct(source, target.fingerprint()).unwrap(),
        Server::direct(target, source.fingerprint()).unwrap(),
    )
}

/// The two ends of a connection after their handshake.
pub async fn established() -> (Stream, Stream) {
    let (source, target) = identities();
    let (client, server) = pinned_pair(&source, &target);
    let (near, far) = complete_handshake(&client, &server).await;
    (near.unwrap(), far.unwrap())
}

/// The error that a source receives from a target that refused it. In TLS 1.3 the alert arrives
/// after the source's handshake is complete.
pub async fn alert_after_handshake(mut stream: impl AsyncRead + Unpin) -> TlsError {
    let error = timeout(STEP_TIMEOUT, stream.read_u8())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    TlsError::from_alert(Peer::Target, &error).unwrap_or_else(|| panic!("no alert: {error}"))
}

/// Asserts that an error matches a pattern and that its message contains these texts.
#[macro_export]
macro_rules! assert_error {
    ($error:expr, $expected:pat, $($words:expr),+) => {{
        let error = $error;
        assert!(matches!(error, $expected), "{error:?}");
        let text = error.to_string();
        $(assert!(text.contains($words), "{text}");)+
    }};
}

/// A key and a self-signed certificate that any peer could create.
pub fn self_signed() -> (rcgen::KeyPair, rcgen::Certificate) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["pve-tunnel".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    (key, certificate)
}

/// A certificate with a key, which may be the key of another certificate.
pub fn certified(certificate: CertificateDer<'static>, key: &rcgen::KeyPair) -> SingleCertAndKey {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = ring::sign::any_supported_type(&key).unwrap();
    CertifiedKey::new(vec![certificate], key).into()
}

/// A client that accepts every certificate.
pub fn unverifying_client(
    version: &'static SupportedProtocolVersion,
    identity: Option<SingleCertAndKey>,
) -> TlsConnector {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate::new()));
    let config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity)),
        None => builder.with_no_client_auth(),
    };
    TlsConnector::from(Arc::new(config))
}

/// A server that accepts every certificate.
pub fn unverifying_server(
    version: &'static SupportedProtocolVersion,
    identity: SingleCertAndKey,
) -> TlsAcceptor {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(Arc::new(AnyCertificate::new()))
        .with_cert_resolver(Arc::new(identity));
    TlsAcceptor::from(Arc::new(config))
}

/// The provider with these suites only, as changed by `change`.
pub fn provider_with(
    suites: &[SupportedCipherSuite],
    change: impl Fn(&mut CipherSuiteCommon),
) -> CryptoProvider {
    // A suite is a static. Those of a test are never freed.
    let changed = |suite: &SupportedCipherSuite| match suite {
        SupportedCipherSuite::Tls12(suite) => {
            let mut suite = Tls12CipherSuite {
                common: common(&suite.common),
                ..**suite
            };
            change(&mut suite.common);
            SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
        }
        SupportedCipherSuite::Tls13(suite) => {
            let mut suite = Tls13CipherSuite {
                common: common(&suite.common),
                ..**suite
            };
            change(&mut suite.common);
            SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
        }
    };
    CryptoProvider {
        cipher_suites: suites.iter().map(changed).collect(),
        ..ring::default_provider()
    }
}

fn common(common: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon { ..*common }
}

/// The server of an API, which requires no certificate. It prefers its first suite.
pub fn api_server(provider: CryptoProvider, identity: SingleCertAndKey) -> TlsAcceptor {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(identity));
    config.ignore_client_order = true;
    TlsAcceptor::from(Arc::new(config))
}

/// The certificate that a target presents to any client.
pub async fn certificate_of(target: &Identity) -> CertificateDer<'static> {
    let server = Server::direct(target, target.fingerprint()).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let client = unverifying_client(&TLS13, None);
    let (connected, _) = tokio::join!(client.connect(server_name(), near), server.handshake(far));
    let connected = connected.unwrap();
    connected.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// The server name that [`unverifying_client`] connects to.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("192.0.2.7").unwrap()
}

/// Accepts every certificate, and every signature.
#[derive(Debug)]
pub struct AnyCertificate(WebPkiSupportedAlgorithms);

impl AnyCertificate {
    pub fn new() -> Self {
        Self(ring::default_provider().signature_verification_algorithms)
    }
}

macro_rules! accept_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
    };
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    accept_signatures!();
}

impl ClientCertVerifier for AnyCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    accept_signatures!();
}
