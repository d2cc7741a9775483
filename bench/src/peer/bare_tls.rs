//! The two processes of a bare rustls pair.

use super::bare::{CHUNK, Place};
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

/// What both are told: a certificate made for them, and whether the bytes are made and dropped
/// inside.
pub(super) fn options(inside: bool) -> Value {
    let made = generate_simple_self_signed([NAME.to_owned()]).unwrap();
    json!({
        "inside": inside,
        "certificate": pem::encode(&Pem::new("CERTIFICATE", made.cert.der().to_vec())),
        "key": pem::encode(&Pem::new("PRIVATE KEY", made.key_pair.serialize_der())),
    })
}

/// Reads from the near socket, and encrypts.
pub(super) fn client() {
    let place = Place::mine();
    let near = place.near();
    let mut wire = place.connect();
    let mut tls = ClientConnection::new(client_config(&place), NAME.try_into().unwrap()).unwrap();
    tls.set_buffer_limit(Some(2 * CHUNK));
    while tls.is_handshaking() {
        tls.complete_io(&mut wire).unwrap();
    }
    // Only fails if the other end is gone.
    let _ = match place.is_inside() {
        true => encrypt(Made { near, left: 0 }, tls, wire),
        false => encrypt(near, tls, wire),
    };
}

/// Decrypts, and writes to the far socket.
pub(super) fn server() {
    let place = Place::mine();
    let mut wire = place.accept();
    let far = place.far();
    let mut tls = ServerConnection::new(server_config(&place)).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut wire).unwrap();
    }
    let _ = match place.is_inside() {
        true => decrypt(Dropped { far, left: 0 }, tls, wire),
        false => decrypt(far, tls, wire),
    };
}

fn encrypt(mut from: impl Read, mut tls: ClientConnection, mut wire: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        tls.writer().write_all(&buffer[..count])?;
        while tls.wants_write() {
            tls.write_tls(&mut wire)?;
        }
    }
}

/// Rustls by itself reads 4 KiB at once.
fn decrypt(mut to: impl Write, mut tls: ServerConnection, wire: TcpStream) -> io::Result<()> {
    let mut wire = BufReader::with_capacity(CHUNK, wire);
    let mut plain = Vec::with_capacity(2 * CHUNK);
    while tls.read_tls(&mut wire)? > 0 {
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        let filled = plain.len();
        plain.resize(filled + state.plaintext_bytes_to_read(), 0);
        tls.reader().read_exact(&mut plain[filled..])?;
        if wire.buffer().is_empty() {
            to.write_all(&plain)?;
            plain.clear();
        }
    }
    Ok(())
}

/// Bytes that are made here: as many as the near socket asks for, after that number itself.
struct Made {
    near: UnixStream,
    left: u64,
}

impl Read for Made {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let mut number = [0; 8];
            self.near.read_exact(&mut number)?;
            self.left = u64::from_le_bytes(number);
            buffer[..8].copy_from_slice(&number);
            return Ok(8);
        }
        let count = self.left.min(buffer.len() as u64);
        self.left -= count;
        Ok(count as usize)
    }
}

/// Bytes that are dropped here: the far socket is told when all that were announced have come.
struct Dropped {
    far: UnixStream,
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
                self.far.write_all(&[0])?;
            }
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Place {
    fn is_inside(&self) -> bool {
        self.0["inside"] == true
    }

    fn pem(&self, name: &str) -> &[u8] {
        self.0[name].as_str().unwrap().as_bytes()
    }

    fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem("certificate")).unwrap()
    }
}

/// The cipher that ours agree on, where the processor has AES.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256],
        ..default_provider()
    })
}

fn client_config(place: &Place) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(place.certificate()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn server_config(place: &Place) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_slice(place.pem("key")).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![place.certificate()], key)
        .unwrap();
    // Tickets would wait for a client that never reads.
    config.send_tls13_tickets = 0;
    Arc::new(config)
}
