//! rustls configurations: system CAs, a pinned fingerprint, or one-time identities that pin each
//! other.
//!
//! | who | versions | we present | the peer must be |
//! |---|---|---|---|
//! | [`Client::new`] without a pin: websocket | 1.2, 1.3 | nothing | vouched for by the system's CAs, by name or address |
//! | [`Client::new`] with a pin: websocket | 1.2, 1.3 | nothing | the pinned certificate; its names and times do not count, as everywhere in Proxmox VE |
//! | [`Client::direct`], [`Server::direct`] | 1.3 | a one-time [`Identity`] | the pinned certificate, within its validity; its names do not count |
//!
//! On a direct connection the source is the client. TLS 1.3 lets a client finish its handshake
//! before the server has judged the client's certificate: see [`Client::handshake`].

mod cipher;
mod client;
mod error;
mod fingerprint;
mod identity;
mod pin;
mod server;

pub use client::Client;
pub use error::{Mismatch, Peer, TlsError};
pub use fingerprint::Fingerprint;
pub use identity::Identity;
pub use server::Server;

use rustls::CommonState;
use tokio::io::BufReader;
use tokio::net::TcpStream;

/// How much of the wire is read at once, in bytes: eight full records. rustls itself never asks for
/// more than one, and for that in several steps.
const READ: usize = 128 << 10;

/// How many bytes of records may wait for the wire, so that a relay's whole buffer leaves in one
/// call: eight full records with their headers and tags, and one to spare. rustls's own limit is
/// four.
const WRITE: usize = 9 * (16 << 10);

/// A TCP connection with a read buffer for TLS.
pub(crate) type BufferedTcp = BufReader<TcpStream>;

/// Adds the read buffer to a connection, before the TLS handshake.
pub(crate) fn buffered(stream: TcpStream) -> BufferedTcp {
    BufReader::with_capacity(READ, stream)
}

/// A connection whose handshake is over.
pub trait Established {
    /// What both ends agreed upon.
    fn agreed(&self) -> &CommonState;
}

impl<S> Established for tokio_rustls::client::TlsStream<S> {
    fn agreed(&self) -> &CommonState {
        self.get_ref().1
    }
}

impl<S> Established for tokio_rustls::server::TlsStream<S> {
    fn agreed(&self) -> &CommonState {
        self.get_ref().1
    }
}

/// What TLS was agreed upon, for the log: protocol version and cipher suite, as
/// `TLSv1_3 TLS13_AES_128_GCM_SHA256`.
pub fn describe(stream: &impl Established) -> String {
    let connection = stream.agreed();
    let version = connection
        .protocol_version()
        .and_then(|version| version.as_str());
    let suite = connection
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str());
    format!(
        "{} {}",
        version.unwrap_or("TLS"),
        suite.unwrap_or("unknown cipher")
    )
}
