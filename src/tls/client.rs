//! The client end: the source.

use super::api_certificate::{ApiCertificate, Trust};
use super::cipher;
use super::identity::NAME;
use super::pin::Pin;
use super::{Fingerprint, Identity, Peer, TlsError, TlsStream, handshake};
use rustls::client::{Resumption, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// The TLS configuration for connections to one target.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    purpose: Purpose,
}

#[derive(Clone, Debug)]
enum Purpose {
    /// The target's API.
    Api {
        pinned: bool,
        /// The configuration of a second attempt; none after it.
        second: Option<Arc<ClientConfig>>,
    },
    /// Direct connections, where names are ignored.
    Direct,
}

impl Client {
    /// Accepts exactly the certificate with this fingerprint or, without one, certificates of the
    /// system's CAs.
    ///
    /// Without a fingerprint it reads the CA certificates from the system's files, which takes a few
    /// milliseconds.
    pub fn new(pin: Option<Fingerprint>) -> Result<Self, TlsError> {
        Self::with_provider(pin, default_provider())
    }

    /// The same with another provider, for tests.
    #[doc(hidden)]
    pub fn with_provider(
        pin: Option<Fingerprint>,
        provider: CryptoProvider,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(provider);
        let trust = match pin {
            Some(expected) => Trust::Pinned(expected),
            None => Trust::Authorities(
                WebPkiServerVerifier::builder_with_provider(
                    Arc::new(system_roots()?),
                    provider.clone(),
                )
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?,
            ),
        };
        let verifier = ApiCertificate {
            trust,
            algorithms: provider.signature_verification_algorithms,
            offers_unusable: false,
        };
        let unlimited = Arc::new(cipher::without_limited(CryptoProvider::clone(&provider)));
        let second = ApiCertificate {
            offers_unusable: true,
            ..verifier.clone()
        };
        Ok(Self {
            config: api_config(unlimited, verifier)?,
            purpose: Purpose::Api {
                pinned: pin.is_some(),
                second: Some(api_config(provider, second)?),
            },
        })
    }

    /// For direct connections: TLS 1.3 only, presents `identity`, and accepts exactly the certificate with
    /// this fingerprint, within its validity.
    pub fn direct(identity: &Identity, pin: Fingerprint) -> Result<Self, TlsError> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(cipher::provider()))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pin::new(pin, Peer::Target)))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
        // Every connection has to prove the identity of both ends.
        config.resumption = Resumption::disabled();
        // The server does not select anything by name.
        config.enable_sni = false;
        // The record layer is not rustls's.
        config.enable_secret_extraction = true;
        Ok(Self {
            config: Arc::new(config),
            purpose: Purpose::Direct,
        })
    }

    /// The client for one more attempt, over another connection, after this error of a handshake. None if
    /// it would fail in the same way.
    ///
    /// The first attempt with an API offers no cipher that limits the amount of data of a connection. The
    /// second one offers those, too: TLS 1.2 with AES-GCM, see [`TlsStream::limit_warning`]. It also offers
    /// signatures that cannot be verified, so that the error names the kind of the key.
    pub fn second_attempt(&self, error: &TlsError) -> Option<Self> {
        let Purpose::Api { pinned, second } = &self.purpose else {
            return None;
        };
        let config = second.clone()?;
        // Some servers close or reset the connection in place of the alert.
        let refused = match error {
            TlsError::NothingInCommon(_) | TlsError::Ended(_) => true,
            TlsError::Handshake(error) => error.kind() == io::ErrorKind::ConnectionReset,
            _ => false,
        };
        refused.then(|| Self {
            config,
            purpose: Purpose::Api {
                pinned: *pinned,
                second: None,
            },
        })
    }

    /// The handshake over `stream` with `host`, a name or an address; a direct connection ignores it. The
    /// caller sets the time limit.
    ///
    /// On a direct connection, success proves the identity of the target, and not that the target accepts
    /// the source: in TLS 1.3 the client sends its certificate last and does not wait for an answer. If
    /// the target refuses the certificate, the first read from the stream returns the alert as an error of
    /// the kind `InvalidData`, which [`TlsError::from_alert`] translates. If the alert is lost, because the
    /// target closed its socket with unread data, the error is `UnexpectedEof` or `ConnectionReset`.
    /// Writes may succeed until then, so no data counts as delivered before a byte was received.
    pub async fn handshake<S>(&self, host: &str, stream: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match self.purpose {
            Purpose::Direct => NAME,
            Purpose::Api { .. } => host,
        };
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))?;
        let connection = UnbufferedClientConnection::new(self.config.clone(), name)?;
        let completed = handshake::complete(connection, stream).await;
        completed.map_err(|error| match self.purpose {
            Purpose::Direct => TlsError::direct(Peer::Target, error),
            Purpose::Api { pinned, .. } => TlsError::with_host(host, pinned, error),
        })
    }
}

fn api_config(
    provider: Arc<CryptoProvider>,
    verifier: ApiCertificate,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    // The record layer is not rustls's.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // An unreadable file among the system's CAs is ignored while there are others.
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
