//! Handshakes with damaged messages: each is an error without delay.

use pve_tunnel::tls::{Fingerprint, Identity, Server};
use rcgen::KeyPair;
use rustls::pki_types::PrivateKeyDer;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection};
use std::sync::Arc;
use std::time::Duration;
use testing::tls::{
    AnyCertificate, complete_handshake, identities, pinned_pair, self_signed, server_name,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// More than a thousand times the duration of a refusal.
const LIMIT: Duration = Duration::from_secs(5);

/// A TLS record's header.
const HEADER: usize = 5;

/// The parts of a flight that the handshake authenticates: the contents of its records. The type
/// and the version in a record's header, and the records that change the cipher, exist for old
/// middleboxes (RFC 8446 §5.1, §5.2, §D.4). A change there has no effect.
fn authenticated(mut bytes: &[u8]) -> Vec<&[u8]> {
    const CHANGE_CIPHER_SPEC: (u8, &[u8]) = (20, &[1]);
    let mut contents = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let (content, rest) = rest.split_at(length.min(rest.len()));
        if (header[0], content) != CHANGE_CIPHER_SPEC {
            contents.push(content);
        }
        bytes = rest;
    }
    contents
}

/// Pseudo-random numbers (Marsaglia's xorshift), the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    /// A flight with damage that the handshake has to detect. Bytes after the end of the flight are
    /// outside the handshake: only a later read would detect them.
    fn damage(&mut self, whole: &[u8]) -> Vec<u8> {
        let expected = authenticated(whole);
        loop {
            let damaged = self.maybe_damage(whole);
            if !authenticated(&damaged).starts_with(&expected) {
                return damaged;
            }
        }
    }

    fn maybe_damage(&mut self, whole: &[u8]) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        match self.below(8) {
            // Truncate.
            0 => bytes.truncate(self.below(whole.len())),
            // Invert one to four bits.
            1..=3 => {
                let bit = self.below(8 * whole.len());
                bytes[bit / 8] ^= 1 << (bit % 8);
                for _ in 0..self.below(4) {
                    let bit = self.below(8 * whole.len());
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            }
            // Set a byte, which may be part of a length, to an extreme value.
            4 => {
                let at = self.below(whole.len());
                bytes[at] = if bytes[at] == 0xff { 0 } else { 0xff };
            }
            // Repeat a piece.
            5 => {
                let from = self.below(whole.len());
                let to = from + 1 + self.below(whole.len() - from);
                let piece = bytes[from..to].to_vec();
                bytes.splice(to..to, piece);
            }
            // A correct header with random content.
            6 => {
                let content = self.below(2000);
                bytes.truncate(HEADER);
                bytes[3..].copy_from_slice(&(content as u16).to_be_bytes());
                bytes.extend(self.bytes(content));
            }
            // Random bytes.
            _ => {
                let count = 1 + self.below(600);
                bytes = self.bytes(count);
            }
        }
        bytes
    }
}

/// A rustls client whose messages the test sends one by one.
struct Source {
    connection: ClientConnection,
}

impl Source {
    fn config(key: &KeyPair, certificate: &rcgen::Certificate) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate::new()))
            .with_client_auth_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    }

    fn new(config: &Arc<ClientConfig>) -> Self {
        Self {
            connection: ClientConnection::new(config.clone(), server_name()).unwrap(),
        }
    }

    /// The messages that the client would send now.
    fn pending_messages(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Reads until the client's handshake is complete.
    async fn finish_handshake(&mut self, stream: &mut UnixStream) {
        while self.connection.is_handshaking() {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).await.unwrap();
            let mut rest = &bytes[..count];
            while !rest.is_empty() {
                self.connection.read_tls(&mut rest).unwrap();
                self.connection.process_new_packets().unwrap();
            }
        }
    }
}

struct Fixture {
    server: Server,
    config: Arc<ClientConfig>,
}

impl Fixture {
    fn new() -> Self {
        let (key, certificate) = self_signed();
        let target = Identity::one_time().unwrap();
        Self {
            server: Server::direct(&target, Fingerprint::of(certificate.der())).unwrap(),
            config: Source::config(&key, &certificate),
        }
    }

    /// Requires that the handshake succeeds without damage.
    async fn complete_undamaged(&self) {
        let (mut near, far) = UnixStream::pair().unwrap();
        let source = async {
            let mut source = Source::new(&self.config);
            near.write_all(&source.pending_messages()).await.unwrap();
            source.finish_handshake(&mut near).await;
            near.write_all(&source.pending_messages()).await.unwrap();
        };
        let (_, result) = tokio::join!(source, self.server.handshake(far));
        result.unwrap();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_damaged_client_hello_is_an_error_without_delay() {
    let fixture = Fixture::new();
    fixture.complete_undamaged().await;
    let mut numbers = Numbers(0x70_7665_7475_6e01);
    for _ in 0..2000 {
        let bytes = numbers.damage(&Source::new(&fixture.config).pending_messages());
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(&bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let result = timeout(LIMIT, fixture.server.handshake(far)).await;
        let result = result.unwrap_or_else(|_| panic!("no result for {}", hex(&bytes)));
        assert!(result.is_err(), "{}", hex(&bytes));
    }
    fixture.complete_undamaged().await;
}

#[tokio::test]
async fn a_damaged_client_certificate_is_an_error_without_delay() {
    let fixture = Fixture::new();
    let mut numbers = Numbers(0x70_7665_7475_6e02);
    for _ in 0..500 {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut sent = Vec::new();
        let peer = async {
            let mut source = Source::new(&fixture.config);
            near.write_all(&source.pending_messages()).await.unwrap();
            source.finish_handshake(&mut near).await;
            sent = numbers.damage(&source.pending_messages());
            // Fails if the server has already refused.
            let _ = near.write_all(&sent).await;
            let _ = near.shutdown().await;
        };
        let both = async { tokio::join!(peer, fixture.server.handshake(far)).1 };
        let result = timeout(LIMIT, both).await;
        let result = result.unwrap_or_else(|_| panic!("no result for {}", hex(&sent)));
        assert!(result.is_err(), "{}", hex(&sent));
    }
    fixture.complete_undamaged().await;
}

/// The same for a source, which receives the damaged messages of a target.
#[tokio::test]
async fn a_damaged_server_hello_is_an_error_without_delay() {
    let (source, target) = identities();
    let (client, server) = pinned_pair(&source, &target);
    let mut numbers = Numbers(0x70_7665_7475_6e03);
    for _ in 0..500 {
        let (near, mut to_client) = UnixStream::pair().unwrap();
        let (mut to_server, far) = UnixStream::pair().unwrap();
        let mut sent = Vec::new();
        let peer = async {
            let mut client_hello = [0; 4096];
            let count = to_client.read(&mut client_hello).await.unwrap();
            to_server.write_all(&client_hello[..count]).await.unwrap();
            let mut answer = [0; 4096];
            let count = to_server.read(&mut answer).await.unwrap();
            sent = numbers.damage(&answer[..count]);
            let _ = to_client.write_all(&sent).await;
            let _ = to_client.shutdown().await;
            drop(to_server);
        };
        let all = async { tokio::join!(peer, server.handshake(far), client.handshake("", near)).2 };
        let result = timeout(LIMIT, all).await;
        let result = result.unwrap_or_else(|_| panic!("no result for {}", hex(&sent)));
        assert!(result.is_err(), "{}", hex(&sent));
    }
    let (near, far) = complete_handshake(&client, &server).await;
    near.unwrap();
    far.unwrap();
}
