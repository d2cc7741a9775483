//! The client end: the source.

use super::cipher;
use super::identity::NAME;
use super::pin::Pin;
use super::{Fingerprint, Identity, Peer, TlsError, WRITE};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The TLS configuration for connections to one target.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    /// Whether it is for direct connections, where names are ignored.
    direct: bool,
}

impl Client {
    /// Accepts exactly the certificate with this fingerprint or, without one, certificates of the
    /// system's CAs.
    ///
    /// Without a fingerprint it reads the CA certificates from the system's files, which takes a few
    /// milliseconds.
    pub fn new(pin: Option<Fingerprint>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = match pin {
            Some(expected) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Pin::undated(expected, Peer::Target)))
                .with_no_client_auth(),
            None => builder
                .with_root_certificates(system_roots()?)
                .with_no_client_auth(),
        };
        Ok(Self {
            config: Arc::new(config),
            direct: false,
        })
    }

    /// For direct connections: TLS 1.3 only, presents `identity`, and accepts exactly the certificate with
    /// this fingerprint, within its validity.
    pub fn direct(identity: &Identity, pin: Fingerprint) -> Result<Self, TlsError> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(cipher::provider()))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pin::dated(pin, Peer::Target)))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
        // Every connection has to prove the identity of both ends.
        config.resumption = Resumption::disabled();
        // The server does not select anything by name.
        config.enable_sni = false;
        Ok(Self {
            config: Arc::new(config),
            direct: true,
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
        let name = if self.direct { NAME } else { host };
        let name =
            ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))?;
        let mut stream = TlsConnector::from(self.config.clone())
            .connect(name, stream)
            .await
            .map_err(|error| match self.direct {
                true => TlsError::direct(Peer::Target, error),
                false => TlsError::with_host(host, error),
            })?;
        stream.get_mut().1.set_buffer_limit(Some(WRITE));
        Ok(stream)
    }
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
