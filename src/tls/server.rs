//! The server end: the target.

use super::pin::Pin;
use super::{Fingerprint, Identity, Peer, TlsError, TlsStream, cipher, handshake};
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// The TLS configuration for connections from one source.
#[derive(Clone, Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
}

impl Server {
    /// For direct connections: TLS 1.3 only, presents `identity`, and accepts exactly the certificate with
    /// this fingerprint, within its validity. A client without a certificate is refused.
    pub fn direct(identity: &Identity, pin: Fingerprint) -> Result<Self, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(cipher::provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(Pin::new(pin, Peer::Source)))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
        // Every connection has to prove the identity of both ends: no tickets, no resumption, no early
        // data.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        // The record layer is not rustls's.
        config.enable_secret_extraction = true;
        // The source selects the cipher, unless AES is slow on this node only.
        config.ignore_client_order = !cipher::has_aes();
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// The handshake over `stream`. The caller sets the time limit.
    ///
    /// Success proves the identity of the source. On failure a TLS alert with the reason is sent, if the
    /// stream accepts it at once, and the stream is dropped.
    pub async fn handshake<S>(&self, stream: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connection = UnbufferedServerConnection::new(self.config.clone())?;
        handshake::complete(connection, stream)
            .await
            .map_err(|error| TlsError::direct(Peer::Source, error))
    }
}
