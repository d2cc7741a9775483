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

mod agreed;
mod api_certificate;
mod cipher;
mod client;
mod error;
mod fingerprint;
mod handshake;
mod identity;
mod pin;
mod public_key;
mod record;
mod server;
mod stream;
mod untrusted;

pub use agreed::Agreed;
pub use client::Client;
pub use error::{Mismatch, Peer, TlsError};
pub use fingerprint::Fingerprint;
pub use identity::Identity;
#[cfg(fuzzing)]
pub(crate) use record::receive as fuzzing_receive;
pub(crate) use record::{Receiver, RecordLayout, Sender};
pub use server::Server;
pub use stream::TlsStream;

/// The negotiated protocol version and cipher suite, for the log, as in
/// `TLSv1_3 TLS13_AES_128_GCM_SHA256`.
pub fn describe<S>(stream: &TlsStream<S>) -> String {
    stream.agreed().describe()
}
