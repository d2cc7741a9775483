//! The end that is connected to: the target.

use super::pin::Pin;
use super::{Fingerprint, Identity, Peer, TlsError, WRITE, cipher};
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How to recognise one source.
#[derive(Clone, Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
}

impl Server {
    /// The target's end of direct connections: TLS 1.3 only, presents `identity` and accepts
    /// exactly the certificate with this fingerprint, within its validity. A client without one is
    /// refused.
    pub fn direct(identity: &Identity, pin: Fingerprint) -> Result<Self, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(cipher::provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(Pin::dated(pin, Peer::Source)))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
        // Every connection proves anew who is there: no tickets, nothing to resume, no early data.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        // The source decides on the cipher, unless it is dear to us alone.
        config.ignore_client_order = !cipher::has_aes();
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// The handshake over `stream`. The caller sets the time limit.
    ///
    /// When this succeeds, the source has proven who it is. When it fails, `stream` has been told
    /// why by a TLS alert, as far as it takes one at once, and is dropped.
    pub async fn handshake<S>(&self, stream: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut stream = TlsAcceptor::from(self.config.clone())
            .accept(stream)
            .await
            .map_err(|error| TlsError::direct(Peer::Source, error))?;
        stream.get_mut().1.set_buffer_limit(Some(WRITE));
        Ok(stream)
    }
}
