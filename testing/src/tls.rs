//! Two ends of direct connections, in this process, and whoever wants to be one.

use pve_tunnel::tls::{Client, Identity, Peer, Server, TlsError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Far longer than anything here takes.
pub const LIMIT: Duration = Duration::from_secs(20);

pub type Outcome<T> = Result<T, TlsError>;
pub type ClientStream = client::TlsStream<UnixStream>;
pub type ServerStream = server::TlsStream<UnixStream>;

/// Both ends of a handshake.
pub async fn meet(
    client: &Client,
    server: &Server,
) -> (Outcome<ClientStream>, Outcome<ServerStream>) {
    let (near, far) = UnixStream::pair().unwrap();
    let both = async { tokio::join!(client.handshake("192.0.2.7", near), server.handshake(far)) };
    timeout(LIMIT, both).await.unwrap()
}

/// A source and a target.
pub fn identities() -> (Identity, Identity) {
    (Identity::one_time().unwrap(), Identity::one_time().unwrap())
}

/// Their ends, told the right fingerprints.
pub fn pair(source: &Identity, target: &Identity) -> (Client, Server) {
    (
        Client::direct(source, target.fingerprint()).unwrap(),
        Server::direct(target, source.fingerprint()).unwrap(),
    )
}

/// Two nodes after their handshake.
pub async fn established() -> (ClientStream, ServerStream) {
    let (source, target) = identities();
    let (client, server) = pair(&source, &target);
    let (near, far) = meet(&client, &server).await;
    (near.unwrap(), far.unwrap())
}

/// What a source hears of a target that refused it after the source's handshake was over.
pub async fn last_words(mut stream: impl AsyncRead + Unpin) -> TlsError {
    let error = timeout(LIMIT, stream.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    TlsError::from_alert(Peer::Target, &error).unwrap_or_else(|| panic!("no alert: {error}"))
}

/// Asserts that an error has this shape, and that it is said with these words.
#[macro_export]
macro_rules! assert_error {
    ($error:expr, $expected:pat, $($words:expr),+) => {{
        let error = $error;
        assert!(matches!(error, $expected), "{error:?}");
        let text = error.to_string();
        $(assert!(text.contains($words), "{text}");)+
    }};
}

/// A certificate with a key that need not be its own.
pub fn certified(certificate: CertificateDer<'static>, key: &rcgen::KeyPair) -> SingleCertAndKey {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = ring::sign::any_supported_type(&key).unwrap();
    CertifiedKey::new(vec![certificate], key).into()
}

/// A client that believes everybody.
pub fn gullible_client(
    version: &'static SupportedProtocolVersion,
    identity: Option<SingleCertAndKey>,
) -> TlsConnector {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody::new()));
    let config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity)),
        None => builder.with_no_client_auth(),
    };
    TlsConnector::from(Arc::new(config))
}

/// A server that believes everybody.
pub fn gullible_server(
    version: &'static SupportedProtocolVersion,
    identity: SingleCertAndKey,
) -> TlsAcceptor {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Anybody::new()))
        .with_cert_resolver(Arc::new(identity));
    TlsAcceptor::from(Arc::new(config))
}

/// What a target shows to whoever asks.
pub async fn certificate_of(target: &Identity) -> CertificateDer<'static> {
    let server = Server::direct(target, target.fingerprint()).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let asking = gullible_client(&TLS13, None);
    let (asked, _) = tokio::join!(asking.connect(anywhere(), near), server.handshake(far));
    let asked = asked.unwrap();
    asked.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// Whom a gullible client asks for.
pub fn anywhere() -> ServerName<'static> {
    ServerName::try_from("192.0.2.7").unwrap()
}

/// Accepts every certificate, and every signature.
#[derive(Debug)]
pub struct Anybody(WebPkiSupportedAlgorithms);

impl Anybody {
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

impl ServerCertVerifier for Anybody {
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

impl ClientCertVerifier for Anybody {
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
