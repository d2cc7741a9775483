//! What tests and benchmarks share.
//!
//! | module | provides |
//! |---|---|
//! | `target` | a target that a test scripts: real TLS (rustls) and real websockets (tungstenite) |
//! | `connector` | the connector: the command `pve-tunnel connect` as a process |
//! | `listener` | a listener in a thread or a process, and the worker's end of its control socket |
//! | `seam` | a target whose worker has a seam, and a connector that has negotiated with it |
//! | `stream` | local programs at both ends of a connection |
//! | `tcp_source` | a source for the `tcp` plane that does not use the library |
//! | `openssl` | certificates and TLS servers of OpenSSL |
//! | `tls` | both ends of a TLS handshake in one process |
//! | `relay` | a relay between a UNIX socket and a TCP socket |
//! | `role` | processes that run the library: the test executable, started again |
//! | `bridge` | a relay between websockets and UNIX sockets, as pveproxy, that can end each of them |
//! | `breaker` | a relay in front of a listener that can break each of its connections |
//! | `namespace`, `cable` | network namespaces and a link between two that can drop every packet |
//! | `link` | a link between two namespaces with rate, delay, loss and packets that vanish |
//! | `frames` | websocket frames, correct and wrong |
//! | `bytes`, `process` | data to send, and properties of a process from the kernel |

// This code serves only tests: a failed step ends the test with a panic, and its items need no
// documentation beyond their names.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::new_without_default
)]

pub mod breaker;
pub mod bridge;
pub mod cable;
pub mod connector;
pub mod frames;
pub mod link;
pub mod listener;
pub mod namespace;
pub mod openssl;
pub mod relay;
pub mod role;
pub mod seam;
pub mod stream;
pub mod target;
pub mod tcp_source;
pub mod tls;

mod bytes;
mod process;

pub use bytes::{pattern, random, read_to_end, sha256, write_in_pieces};
pub use process::{copies_in_memory, is_gone, peak_memory, signal, state, visit_writable_memory};

use std::fmt::Display;
use std::io::{self, Write};
use std::panic::Location;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Waits until a condition is true. Panics with `what` after 60 seconds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < limit, "never: {what}");
        sleep(Duration::from_millis(2));
    }
}

/// Reports on standard error that a test skips something, with the test's file and line.
///
/// It does not use the print macros, because the test harness keeps their output from the terminal.
#[track_caller]
#[allow(clippy::explicit_write)]
pub fn report_skipped(what: &str, why: &dyn Display) {
    let location = Location::caller();
    writeln!(io::stderr(), "{location}: skipped {what}: {why}").unwrap();
}
