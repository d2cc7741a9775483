//! What tests and benchmarks share.
//!
//! | module | provides |
//! |---|---|
//! | `target` | a target that a test scripts: real TLS (rustls) and real websockets (tungstenite) |
//! | `connector` | the connector: the command `pve-tunnel connect` as a process |
//! | `listener` | a listener, in a thread or as a process, and its worker's end of the control socket |
//! | `seam` | a target whose worker has a seam, and a connector that has negotiated with it |
//! | `stream` | local programs at both ends of a connection |
//! | `tcp_source` | a source on the `tcp` plane that is independent of our code |
//! | `tls` | both ends of a TLS handshake in one process |
//! | `relay` | a relay between a UNIX socket and a TCP socket |
//! | `role` | processes that run our library: the test executable, started again |
//! | `namespace`, `cable` | network namespaces, and a cable between two of them that can be cut |
//! | `frames` | websocket frames, right and wrong |
//! | `bytes`, `process` | data to send, and what the kernel reports about a process |

// Code of tests: a failed step ends the test with a panic, and names need no further description.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::new_without_default
)]

pub mod cable;
pub mod connector;
pub mod frames;
pub mod listener;
pub mod namespace;
pub mod relay;
pub mod role;
pub mod seam;
pub mod stream;
pub mod target;
pub mod tcp_source;
pub mod tls;

mod bytes;
mod process;

pub use bytes::{pattern, random, read_out, sha256, write_in_pieces};
pub use process::{is_gone, peak_memory, signal, state};

use std::fmt::Display;
use std::io::{self, Write};
use std::panic::Location;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Waits for something that happens by itself.
pub fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !happened() {
        assert!(Instant::now() < limit, "never: {what}");
        sleep(Duration::from_millis(2));
    }
}

/// Reports on standard error that a test skips something, with the test's file and line.
///
/// It does not use the print macros, because the test harness keeps their output from the terminal.
#[track_caller]
#[allow(clippy::explicit_write)]
pub fn skipped(what: &str, why: &dyn Display) {
    let place = Location::caller();
    writeln!(io::stderr(), "{place}: skipped {what}: {why}").unwrap();
}
