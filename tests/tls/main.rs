//! TLS between two nodes that know each other by fingerprint.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod damage;
mod handshake;
mod key;
mod untrusted_peers;
