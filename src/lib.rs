//! pve-tunnel: the native tunnel for moving guests between Proxmox VE clusters.
//!
//! The map of the house, from decisions (pure functions over plain data) to the edges (I/O):
//!
//! | room | owns |
//! |---|---|
//! | [`capability`] | the worker's version reply, `caps`, the [`capability::Plan`] made of them |
//! | [`configuration`] | what an administrator has configured: networks by ID or remote, the policy |
//! | [`network`] | a migration's address and port, and which endpoints of a target are acceptable |
//! | [`websocket`] | masking, framing, the client's upgrade |
//! | [`tls`] | rustls configurations: system CAs or a pinned fingerprint |
//! | [`relay`] | copying between two byte streams with backpressure, and how each of them ends |
//! | [`direct`] | the direct connection: hello, wires, watch, for both of its ends |
//! | [`connector`] | the process on the source: control protocol, forwards, planes |
//! | [`listener`] | the process on the target: port, hello, dispatch to UNIX sockets |
//! | [`ffi`] | the C ABI over all of them |

pub mod capability;
pub mod configuration;
pub mod connector;
pub mod direct;
pub mod ffi;
pub mod listener;
pub mod network;
pub mod plan;
pub mod plane;
mod process;
pub mod relay;
mod scalar;
pub mod seam;
mod secret;
mod system;
pub mod tls;
pub mod websocket;
