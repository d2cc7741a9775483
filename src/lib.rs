//! pve-tunnel: the native tunnel for moving guests between Proxmox VE clusters.
//!
//! # Quick start
//!
//! The decisions are pure functions. Which plane carries the data of a guest:
//!
//! ```
//! use pve_tunnel::plan::{PlanInput, plan};
//!
//! let input: PlanInput = serde_json::from_value(serde_json::json!({
//!     "migration_type": "secure",
//!     "caps": ["direct-tls"],
//!     "planes": ["tls", "tcp"],
//! }))?;
//! let plan = plan(&input)?;
//! assert_eq!(plan.plane.name(), "tls");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The codecs work on bytes, without I/O. A binary message from a client, as pveproxy reads it:
//!
//! ```
//! use pve_tunnel::websocket::{Decoder, Encoder, Event, MAX_FRAME, Masking, OpCode, Role};
//!
//! let mut wire = Vec::new();
//! let mut encoder = Encoder::new(Role::Client, Masking::Random);
//! encoder.encode(OpCode::Binary, b"guest data", &mut wire)?;
//!
//! let mut decoder = Decoder::new(Role::Server, MAX_FRAME);
//! decoder.feed(&wire);
//! match decoder.next_event()? {
//!     Some(Event::Data { payload, end, .. }) => assert_eq!((payload, end), (&b"guest data"[..], true)),
//!     other => panic!("unexpected: {other:?}"),
//! }
//! # Ok::<(), pve_tunnel::websocket::FrameError>(())
//! ```
//!
//! The rest is asynchronous and requires tokio. A TLS connection that accepts exactly one certificate:
//!
//! ```no_run
//! use pve_tunnel::tls::{Client, describe};
//! use tokio::net::TcpStream;
//!
//! # async fn connect(fingerprint: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(Some(fingerprint.parse()?))?;
//! let stream = client.handshake("192.0.2.7", TcpStream::connect("192.0.2.7:8006").await?).await?;
//! println!("{}", describe(&stream));
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! The modules, from decisions (pure functions over plain data) to I/O:
//!
//! | module | content |
//! |---|---|
//! | [`plane`] | the names of planes and migration types |
//! | [`quantity`] | numbers of bytes and times, for people |
//! | [`capability`] | the worker's version reply and its `caps` |
//! | [`configuration`] | the configuration file: networks by ID or remote, and the policy |
//! | [`network`] | a migration's address and port, and which endpoints of a target are acceptable |
//! | [`plan`](mod@plan) | the decision table: the plane, the required privileges, and the warnings |
//! | [`seam`] | what a tunnel worker on the target does with a request about direct connections |
//! | [`tuning`] | buffers and congestion control that fit the network path |
//! | [`websocket`] | masking, frames, the client's upgrade |
//! | [`tls`] | rustls configurations: system CAs, pinned fingerprints, one-time identities |
//! | [`relay`] | copying between two byte streams with backpressure, and how each of them ends |
//! | [`publication`] | the running tunnels of a node, as they publish themselves |
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
mod guest_socket;
mod lanes;
pub mod listener;
pub mod network;
pub mod plan;
pub mod plane;
mod process;
pub mod publication;
pub mod quantity;
pub mod relay;
mod scalar;
pub mod seam;
mod secret;
mod system;
pub mod tls;
pub mod tuning;
pub mod websocket;

pub use lanes::Compression;
pub use scalar::{one_line, one_line_within};
pub use system::ignored_signals;

/// The allocator of everything that links this library.
#[cfg_attr(feature = "wiping-allocator", global_allocator)]
static ALLOCATOR: system::WipingAllocator = system::WipingAllocator::new();
