//! The websocket codec and the opening handshake (RFC 6455).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod encode;
mod frames;
mod upgrade;
