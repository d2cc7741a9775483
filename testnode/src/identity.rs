//! The certificate of the node: self-signed, created at start, and discarded at exit.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{CipherSuite, ServerConfig};
use serde_json::{Value, json};
use thiserror::Error;

/// The only TLS version that the node supports, and with `1.2-aes` its only cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TlsVersion {
    #[value(name = "1.2")]
    V12,
    /// Without ChaCha20, the cipher of TLS 1.2 that does not limit the data of a connection.
    #[value(name = "1.2-aes")]
    V12Aes,
    #[value(name = "1.3")]
    V13,
}

#[derive(Debug, Error)]
pub(crate) enum IdentityError {
    #[error("cannot create a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("cannot write {path}: {source}")]
    Write {
        path: String,
        source: std::io::Error,
    },
}

/// A leaf certificate and its key.
pub(crate) struct Identity {
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Identity {
    /// Creates a certificate for `address` and `localhost`.
    pub(crate) fn new(address: IpAddr) -> Result<Self, IdentityError> {
        let names = vec![address.to_string(), "localhost".to_owned()];
        let rcgen::CertifiedKey { cert, key_pair } = rcgen::generate_simple_self_signed(names)?;
        Ok(Self {
            certificate: cert,
            key: key_pair,
        })
    }

    /// SHA-256 of the certificate as `AA:BB:…`, the format of Proxmox VE.
    pub(crate) fn fingerprint(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.certificate.der());
        let pairs: Vec<String> = digest
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect();
        pairs.join(":")
    }

    /// The TLS configuration of a server with this identity. Without `version`, TLS 1.2 and 1.3.
    pub(crate) fn server_config(
        &self,
        version: Option<TlsVersion>,
    ) -> Result<Arc<ServerConfig>, IdentityError> {
        let versions: &[&rustls::SupportedProtocolVersion] = match version {
            None => &[&rustls::version::TLS13, &rustls::version::TLS12],
            Some(TlsVersion::V12 | TlsVersion::V12Aes) => &[&rustls::version::TLS12],
            Some(TlsVersion::V13) => &[&rustls::version::TLS13],
        };
        let mut provider = rustls::crypto::ring::default_provider();
        if version == Some(TlsVersion::V12Aes) {
            let is_aes = |suite: CipherSuite| format!("{suite:?}").contains("_AES_");
            provider.cipher_suites.retain(|suite| is_aes(suite.suite()));
        }
        let chain: Vec<CertificateDer<'static>> = vec![self.certificate.der().clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Arc::new(config))
    }

    /// Writes `cert.pem` and `key.pem` (mode 0600) into `directory`, for use by another server.
    ///
    /// Returns `{"certificate","key","fingerprint"}`. Fails if a file exists: a key is not
    /// overwritten, and a symbolic link is not followed.
    pub(crate) fn write_pem(&self, directory: &Path) -> Result<Value, IdentityError> {
        let certificate = directory.join("cert.pem");
        let key = directory.join("key.pem");
        let encoded = |tag, der: &[u8]| pem::encode(&pem::Pem::new(tag, der));
        write_new(
            &certificate,
            &encoded("CERTIFICATE", self.certificate.der()),
        )?;
        write_new(&key, &encoded("PRIVATE KEY", self.key.serialized_der()))?;
        Ok(json!({
            "certificate": certificate,
            "key": key,
            "fingerprint": self.fingerprint(),
        }))
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), IdentityError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| IdentityError::Write {
            path: path.display().to_string(),
            source,
        })
}
