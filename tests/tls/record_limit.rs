//! Ciphers that limit the number of records of a connection, with lower limits than the real ones.

use pve_tunnel::tls::{Client, Fingerprint, TlsError, TlsStream, describe};
use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 as AES_TLS12,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 as CHACHA20_TLS12,
    TLS13_AES_128_GCM_SHA256 as AES_TLS13,
};
use rustls::crypto::ring::default_provider;
use std::io::ErrorKind;
use testing::assert_error;
use testing::openssl::{Certificate, Server};
use testing::tls::{STEP_TIMEOUT, api_server, certified, provider_with, self_signed};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{JoinHandle, spawn};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Records that a key may protect, in place of 2^24.
const RECORDS: u64 = 1 << 10;

/// A full record.
const RECORD: usize = 16 << 10;

/// The suites of a client.
const ALL: [SupportedCipherSuite; 3] = [AES_TLS13, AES_TLS12, CHACHA20_TLS12];

/// What a server received, and how the stream ended.
type Received = (Vec<u8>, Result<(), ErrorKind>);

struct Api {
    server: TlsAcceptor,
    client: Client,
}

impl Api {
    /// A server with these suites, and a client that pins its certificate and supports others, too.
    fn new(suites: &[SupportedCipherSuite]) -> Self {
        let (key, certificate) = self_signed();
        let pin = Fingerprint::of(certificate.der());
        let unlimited = provider_with(suites, |suite| suite.confidentiality_limit = u64::MAX);
        Self {
            server: api_server(unlimited, certified(certificate.der().clone(), &key)),
            client: Client::with_provider(Some(pin), with_low_limits(&ALL)).unwrap(),
        }
    }

    /// Connects, as often as the connector does, to a server that reads everything.
    async fn connect(&self) -> (TlsStream<UnixStream>, JoinHandle<Received>) {
        match self.attempt(&self.client).await {
            Ok(connected) => connected,
            Err(error) => {
                let second = self.client.second_attempt(&error).unwrap();
                self.attempt(&second).await.unwrap()
            }
        }
    }

    async fn attempt(
        &self,
        client: &Client,
    ) -> Result<(TlsStream<UnixStream>, JoinHandle<Received>), TlsError> {
        let (near, far) = UnixStream::pair().unwrap();
        let server = self.server.clone();
        let received = spawn(async move {
            let mut received = Vec::new();
            let end = match server.accept(far).await {
                Ok(mut stream) => stream.read_to_end(&mut received).await,
                Err(error) => Err(error),
            };
            (received, end.map(drop).map_err(|error| error.kind()))
        });
        let stream = client.handshake("192.0.2.7", near).await?;
        Ok((stream, received))
    }
}

/// These suites; AES-GCM has the lower limit.
fn with_low_limits(suites: &[SupportedCipherSuite]) -> CryptoProvider {
    provider_with(suites, |suite| {
        if suite.confidentiality_limit != u64::MAX {
            suite.confidentiality_limit = RECORDS;
        }
    })
}

/// The received bytes of a stream, within a time limit.
async fn received(server: JoinHandle<Received>) -> Received {
    timeout(STEP_TIMEOUT, server).await.unwrap().unwrap()
}

/// Sends pieces of this length until an error or until there were `most`. Returns the bytes that
/// were sent without error, and the error.
async fn send<S>(stream: &mut TlsStream<S>, piece: usize, most: u64) -> (u64, Option<String>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let piece = vec![7; piece];
    let mut sent = 0;
    for _ in 0..most {
        let result = match stream.write_all(&piece).await {
            Ok(()) => stream.flush().await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            return (sent, Some(error.to_string()));
        }
        sent += piece.len() as u64;
    }
    (sent, None)
}

#[tokio::test]
async fn a_stream_beyond_the_limit_of_its_cipher_is_an_error_at_both_ends() {
    // Records of one byte, full records, and eight records in one write.
    for (piece, records) in [(1, 1), (RECORD, 1), (8 * RECORD, 8)] {
        let (mut stream, server) = Api::new(&[AES_TLS12]).connect().await;
        assert!(describe(&stream).contains("AES_128_GCM"));
        let (sent, error) = send(&mut stream, piece, 2 * RECORDS).await;
        let error = error.unwrap();
        for word in [
            "TLSv1_2 TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "1024 records (16 MiB)",
            "allow TLS 1.3, or TLS 1.2 with ChaCha20-Poly1305",
        ] {
            assert!(error.contains(word), "{error}");
        }
        let allowed = sent / piece as u64 * records;
        assert!((RECORDS - 32..RECORDS).contains(&allowed), "{allowed}");

        // No further write is accepted, and the stream has no orderly end.
        stream.write_all(b"x").await.unwrap_err();
        stream.shutdown().await.unwrap_err();
        drop(stream);
        let (data, end) = received(server).await;
        assert_eq!(data.len() as u64, sent);
        assert_eq!(end, Err(ErrorKind::UnexpectedEof));
    }
}

/// Sends records of one byte to an OpenSSL server with this cipher list, until an error or until
/// there were twice as many as one key of AES-GCM may protect here. Returns the negotiated cipher,
/// the error, and the output of the server.
async fn send_to_openssl(ciphers: &str, attempts: usize) -> (String, Option<String>, String) {
    let certificate = Certificate::new(&["-newkey", "rsa:2048"]);
    let arguments = ["-tls1_2", "-serverpref", "-cipher", ciphers];
    let server = Server::sink(&certificate, attempts, &arguments);
    let provider = with_low_limits(&default_provider().cipher_suites);
    let mut client = Client::with_provider(Some(certificate.fingerprint()), provider).unwrap();
    let mut stream = loop {
        let tcp = TcpStream::connect(server.address).await.unwrap();
        match client.handshake("127.0.0.1", tcp).await {
            Ok(stream) => break stream,
            Err(error) => client = client.second_attempt(&error).unwrap(),
        }
    };
    let (_, error) = send(&mut stream, 1, 2 * RECORDS).await;
    if error.is_none() {
        stream.shutdown().await.unwrap();
    }
    let cipher = describe(&stream);
    drop(stream);
    (cipher, error, server.finish())
}

#[tokio::test]
async fn an_openssl_server_sees_the_same_ends() {
    let (cipher, error, output) = send_to_openssl("ECDHE+AESGCM", 2).await;
    assert!(cipher.contains("GCM"), "{cipher}");
    assert!(error.unwrap().contains("1024 records"));
    assert!(output.contains("unexpected eof while reading"), "{output}");

    // The server would prefer AES-GCM.
    let (cipher, error, output) = send_to_openssl("ECDHE+AESGCM:ECDHE+CHACHA20", 1).await;
    assert!(cipher.contains("CHACHA20"), "{cipher}");
    assert_eq!(error, None);
    assert!(!output.contains("unexpected eof"), "{output}");
    assert!(output.contains("DONE"), "{output}");
}

#[tokio::test]
async fn a_cipher_without_limit_is_selected_although_the_server_prefers_another() {
    let api = Api::new(&[AES_TLS12, CHACHA20_TLS12]);
    let (mut stream, server) = api.attempt(&api.client).await.unwrap();
    assert!(describe(&stream).contains("CHACHA20_POLY1305"));
    assert_eq!(stream.limit_warning(), None);
    assert_eq!(send(&mut stream, 100, 4 * RECORDS).await.1, None);
    stream.shutdown().await.unwrap();
    let (data, end) = received(server).await;
    assert_eq!((data.len() as u64, end), (4 * RECORDS * 100, Ok(())));
}

#[tokio::test]
async fn keys_are_changed_in_time_in_tls_1_3() {
    for piece in [1, 8 * RECORD] {
        let api = Api::new(&[AES_TLS13, AES_TLS12]);
        let (mut stream, server) = api.attempt(&api.client).await.unwrap();
        assert!(describe(&stream).starts_with("TLSv1_3"));
        assert_eq!(stream.limit_warning(), None);
        assert_eq!(send(&mut stream, piece, 4 * RECORDS).await.1, None);
        stream.shutdown().await.unwrap();
        let (data, end) = received(server).await;
        assert_eq!(data.len(), 4 * RECORDS as usize * piece);
        assert!(data.iter().all(|&byte| byte == 7));
        assert_eq!(end, Ok(()));
    }
}

#[tokio::test]
async fn a_limited_cipher_is_offered_in_a_second_attempt_with_a_warning() {
    let api = Api::new(&[AES_TLS12]);
    let error = api.attempt(&api.client).await.unwrap_err();
    assert_error!(
        &error,
        TlsError::NothingInCommon(_),
        "'192.0.2.7' and this node have nothing in common in TLS"
    );
    let second = api.client.second_attempt(&error).unwrap();
    let (stream, _) = api.attempt(&second).await.unwrap();
    let warning = stream.limit_warning().unwrap();
    assert!(warning.contains("can send 16 MiB at most"), "{warning}");
    // There is no third attempt, and none after another error.
    assert!(second.second_attempt(&error).is_none());
    assert!(
        api.client
            .second_attempt(&TlsError::Host("x".into()))
            .is_none()
    );
}
