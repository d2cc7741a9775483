//! TLS between two nodes that pin each other's certificate by its fingerprint.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod damage;
mod handshake;
mod key;
mod key_update;
mod record_limit;
mod untrusted_peers;
