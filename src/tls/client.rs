//! The end that connects: the source.

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

/// How to recognise one target.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    /// Only one certificate is expected, whatever the host is called.
    direct: bool,
}

impl Client {
    /// Accepts exactly the certificate with this fingerprint or, without one, what the system's CAs
    /// vouch for.
    ///
    /// Reads the CA certificates from the system's files, which takes a few milliseconds.
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

    /// The source's end of direct connections: TLS 1.3 only, presents `identity` and accepts
    /// exactly the certificate with this fingerprint, within its validity.
    pub fn direct(identity: &Identity, pin: Fingerprint) -> Result<Self, TlsError> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(cipher::provider()))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pin::dated(pin, Peer::Target)))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified())));
        // Every connection proves anew who is there.
        config.resumption = Resumption::disabled();
        // There is nothing to choose by a name at the other end.
        config.enable_sni = false;
        Ok(Self {
            config: Arc::new(config),
            direct: true,
        })
    }

    /// The handshake over `stream` with `host`, a name or an address, which a direct connection
    /// does not look at. The caller sets the time limit.
    ///
    /// On a direct connection, success says that the target is who it should be, and not that it
    /// takes us for who we are: in TLS 1.3 the client's certificate is the last that is said, and
    /// no answer to it is waited for. If the target refuses it, then the first read from the stream
    /// returns the alert as an error of the kind `InvalidData`, which [`TlsError::from_alert`] puts
    /// into words; if the alert is lost, because the target closed a socket with unread data, then
    /// it is `UnexpectedEof` or `ConnectionReset`. Writing may well succeed until then, so nothing
    /// is to be taken as delivered before a byte has come back.
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
