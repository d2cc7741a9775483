//! The two processes of a bare rustls pair.

use super::endpoints::{CHUNK, Endpoints};
use pem::Pem;
use rcgen::generate_simple_self_signed;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite::TLS13_AES_128_GCM_SHA256, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use serde_json::{Value, json};
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

const NAME: &str = "localhost";

/// The options of both processes: a new certificate, and whether the client creates the bytes and
/// the server drops them.
pub fn options(inside: bool) -> Value {
    let identity = generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let pem = |tag, contents| pem::encode(&Pem::new(tag, contents));
    json!({
        "inside": inside,
        "certificate": pem("CERTIFICATE", identity.cert.der().to_vec()),
        "key": pem("PRIVATE KEY", identity.key_pair.serialize_der()),
    })
}

/// Reads from the source, and encrypts.
pub fn client() {
    let endpoints = Endpoints::from_role();
    let source = endpoints.source();
    let mut connection = endpoints.connect();
    let config = client_config(&endpoints);
    let mut tls = ClientConnection::new(config, NAME.try_into().unwrap()).unwrap();
    tls.set_buffer_limit(Some(2 * CHUNK));
    while tls.is_handshaking() {
        tls.complete_io(&mut connection).unwrap();
    }
    // Fails only if the server is gone.
    let _ = match endpoints.is_set("inside") {
        true => encrypt(Created { source, left: 0 }, tls, connection),
        false => encrypt(source, tls, connection),
    };
}

/// Decrypts, and writes to the sink.
pub fn server() {
    let endpoints = Endpoints::from_role();
    let mut connection = endpoints.accept();
    let sink = endpoints.sink();
    let mut tls = ServerConnection::new(server_config(&endpoints)).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut connection).unwrap();
    }
    // Fails only if the client or the sink is gone.
    let _ = match endpoints.is_set("inside") {
        true => decrypt(Dropped { sink, left: 0 }, tls, connection),
        false => decrypt(sink, tls, connection),
    };
}

fn encrypt(
    mut from: impl Read,
    mut tls: ClientConnection,
    mut connection: TcpStream,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        tls.writer().write_all(&buffer[..count])?;
        while tls.wants_write() {
            tls.write_tls(&mut connection)?;
        }
    }
}

/// Reads through a buffer, because rustls itself reads 4 KiB at a time.
fn decrypt(mut to: impl Write, mut tls: ServerConnection, connection: TcpStream) -> io::Result<()> {
    let mut connection = BufReader::with_capacity(CHUNK, connection);
    let mut plaintext = Vec::with_capacity(2 * CHUNK);
    while tls.read_tls(&mut connection)? > 0 {
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        let filled = plaintext.len();
        plaintext.resize(filled + state.plaintext_bytes_to_read(), 0);
        tls.reader().read_exact(&mut plaintext[filled..])?;
        if connection.buffer().is_empty() {
            to.write_all(&plaintext)?;
            plaintext.clear();
        }
    }
    Ok(())
}

/// Bytes that the client creates. The source sends their number, which is also their first eight
/// bytes (little endian).
struct Created {
    source: UnixStream,
    left: u64,
}

impl Read for Created {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let mut number = [0; 8];
            self.source.read_exact(&mut number)?;
            self.left = u64::from_le_bytes(number);
            buffer[..8].copy_from_slice(&number);
            return Ok(8);
        }
        let count = self.left.min(buffer.len() as u64);
        self.left -= count;
        Ok(count as usize)
    }
}

/// Bytes that the server drops. The sink receives one byte when all announced bytes have arrived.
struct Dropped {
    sink: UnixStream,
    left: u64,
}

impl Write for Dropped {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len();
        if self.left == 0 && count > 0 {
            let (number, rest) = bytes.split_first_chunk().unwrap();
            (self.left, bytes) = (u64::from_le_bytes(*number), rest);
        }
        if count > 0 {
            self.left -= bytes.len() as u64;
            if self.left == 0 {
                self.sink.write_all(&[0])?;
            }
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The cipher suite that pve-tunnel negotiates on processors with AES instructions.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        ..default_provider()
    })
}

fn client_config(endpoints: &Endpoints) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(endpoints)).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn server_config(endpoints: &Endpoints) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_slice(endpoints.text("key").as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate(endpoints)], key)
        .unwrap();
    // The client never reads, so tickets would stay in its receive buffer.
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn certificate(endpoints: &Endpoints) -> CertificateDer<'static> {
    let text = endpoints.text("certificate");
    CertificateDer::from_pem_slice(text.as_bytes()).unwrap()
}
