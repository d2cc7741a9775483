//! pve-tunnel: the native tunnel for moving guests between Proxmox VE clusters.
//!
//! The modules, from decisions (pure functions over plain data) to I/O:
//!
//! | module | content |
//! |---|---|
//! | [`plane`] | the names of planes and migration types |
//! | [`capability`] | the worker's version reply and its `caps` |
//! | [`configuration`] | the configuration file: networks by ID or remote, and the policy |
//! | [`network`] | a migration's address and port, and which endpoints of a target are acceptable |
//! | [`plan`](mod@plan) | the decision table: the plane, the required privileges, and the warnings |
//! | [`seam`] | what a tunnel worker on the target does with a request about direct connections |
//! | [`tuning`] | buffers and congestion control that fit the network path |
//! | [`websocket`] | masking, frames, the client's upgrade |
//! | [`tls`] | rustls configurations: system CAs, pinned fingerprints, one-time identities |
//! | [`relay`] | copying between two byte streams with backpressure, and how each of them ends |
//! | [`direct`] | direct connections, for source and target: handshake, heartbeat, messages |
//! | [`connector`] | the process on the source: control protocol, forwards, planes |
//! | [`listener`] | the process on the target: port, handshake, connections to UNIX sockets |
//! | [`ffi`] | the C ABI |

pub mod capability;
pub mod configuration;
pub mod connector;
pub mod direct;
pub mod ffi;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
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
pub mod tuning;
pub mod websocket;

pub use scalar::one_line;

/// The allocator of everything that links this library.
#[cfg_attr(feature = "wiping-allocator", global_allocator)]
static ALLOCATOR: system::WipingAllocator = system::WipingAllocator::new();
