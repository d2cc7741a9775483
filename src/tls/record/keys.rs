//! The keys of a connection and their changes (RFC 8446 §7.2).

use ring::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::crypto::cipher::{AeadKey, Iv, MessageDecrypter};
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error, HandshakeType, SupportedCipherSuite};

/// What remains of rustls's connection after the handshake.
pub(in crate::tls) trait KeySchedule: Send {
    /// The next key of this end's records.
    fn next_to_send(&mut self) -> Result<ConnectionTrafficSecrets, Error>;
    /// The next key of the peer's records.
    fn next_to_receive(&mut self) -> Result<ConnectionTrafficSecrets, Error>;
    /// Stores a session ticket of a server.
    fn store_ticket(&mut self, ticket: &[u8]) -> Result<(), Error>;
}

impl KeySchedule for KernelConnection<ClientConnectionData> {
    fn next_to_send(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        Ok(self.update_tx_secret()?.1)
    }

    fn next_to_receive(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        Ok(self.update_rx_secret()?.1)
    }

    fn store_ticket(&mut self, ticket: &[u8]) -> Result<(), Error> {
        self.handle_new_session_ticket(ticket)
    }
}

impl KeySchedule for KernelConnection<ServerConnectionData> {
    fn next_to_send(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        Ok(self.update_tx_secret()?.1)
    }

    fn next_to_receive(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        Ok(self.update_rx_secret()?.1)
    }

    fn store_ticket(&mut self, _: &[u8]) -> Result<(), Error> {
        Err(Error::InappropriateHandshakeMessage {
            expect_types: vec![HandshakeType::KeyUpdate],
            got_type: HandshakeType::NewSessionTicket,
        })
    }
}

/// The cipher for received records. It decrypts in place.
pub(super) fn decrypter(
    suite: SupportedCipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageDecrypter>, Error> {
    let (_, key, iv) = parts(secrets)?;
    Ok(match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.decrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            // The rest of the nonce is in each record.
            let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
            suite.aead_alg.decrypter(key, &iv.as_ref()[..fixed])
        }
    })
}

/// Key and initialisation vector for records to be sent. rustls's own cipher would copy them.
pub(super) fn sealing_key(secrets: ConnectionTrafficSecrets) -> Result<(LessSafeKey, Iv), Error> {
    let (algorithm, key, iv) = parts(secrets)?;
    let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Error::EncryptError)?;
    Ok((LessSafeKey::new(key), iv))
}

fn parts(secrets: ConnectionTrafficSecrets) -> Result<(&'static Algorithm, AeadKey, Iv), Error> {
    use ConnectionTrafficSecrets as Secrets;
    Ok(match secrets {
        Secrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
        Secrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
        Secrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
        _ => return Err(Error::General("the cipher is not supported".into())),
    })
}

/// Fixed keys, for tests and the fuzz target.
#[cfg(any(test, fuzzing))]
pub(super) mod fixed {
    use super::*;
    use rustls::crypto::ring::default_provider;

    /// The suites with keys of 32 bytes. rustls makes shorter keys by itself only: the tests of
    /// connections use them.
    pub(in crate::tls::record) fn suites() -> Vec<SupportedCipherSuite> {
        let mut suites = default_provider().cipher_suites;
        suites.retain(|suite| !format!("{suite:?}").contains("AES_128"));
        assert_eq!(suites.len(), 6);
        suites
    }

    pub(in crate::tls::record) fn secrets(suite: SupportedCipherSuite) -> ConnectionTrafficSecrets {
        let key = AeadKey::from([7; 32]);
        let iv = Iv::new([9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2]);
        match format!("{suite:?}").contains("CHACHA20") {
            true => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
            false => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
        }
    }

    /// All keys are the same.
    pub(in crate::tls::record) struct FixedKeys(pub(in crate::tls::record) SupportedCipherSuite);

    impl KeySchedule for FixedKeys {
        fn next_to_send(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
            Ok(secrets(self.0))
        }

        fn next_to_receive(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
            Ok(secrets(self.0))
        }

        fn store_ticket(&mut self, _: &[u8]) -> Result<(), Error> {
            Ok(())
        }
    }
}
