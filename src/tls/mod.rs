//! rustls configurations: system CAs, a pinned fingerprint, or one-time identities that pin each
//! other.
//!
//! | configuration | TLS versions | presented certificate | accepted certificate |
//! |---|---|---|---|
//! | [`Client::new`] without a pin: websocket | 1.2, 1.3 | none | signed by one of the system's CAs, for the name or address |
//! | [`Client::new`] with a pin: websocket | 1.2, 1.3 | none | the pinned one with a key that can be verified; everything else in it is ignored, as everywhere in Proxmox VE |
//! | [`Client::direct`], [`Server::direct`] | 1.3 | of a one-time [`Identity`] | the pinned one, within its validity; names are ignored |
//!
//! On a direct connection the source is the client. In TLS 1.3 the handshake of a client ends before the
//! server has checked the client's certificate: see [`Client::handshake`].

mod api_certificate;
mod buffered;
mod cipher;
mod client;
mod error;
mod fingerprint;
mod identity;
mod pin;
mod public_key;
mod server;
mod stream;
mod untrusted;
mod wiped;

pub(crate) use buffered::{BufferedTcp, buffered};
pub use client::Client;
pub use error::{Mismatch, Peer, TlsError};
pub use fingerprint::Fingerprint;
pub use identity::Identity;
pub use server::Server;
pub use stream::{Counted, TlsStream};
pub(crate) use wiped::Wiped;

use rustls::CommonState;

/// Bytes of records that may wait to be sent: eight full records with their headers and tags, and one
/// more. So the whole buffer of a relay is sent in one call. The limit of rustls is four records.
const WRITE: usize = 9 * (16 << 10);

/// A connection after its handshake.
pub trait Established {
    /// The negotiated parameters.
    fn negotiated(&self) -> &CommonState;
}

/// The negotiated protocol version and cipher suite, for the log, as in
/// `TLSv1_3 TLS13_AES_128_GCM_SHA256`.
pub fn describe(stream: &impl Established) -> String {
    let connection = stream.negotiated();
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
