//! The running tunnels of this node, as connectors and listeners publish them.
//!
//! Each process listens on a UNIX socket in [`DIRECTORY`], and writes one JSON line to each
//! connection (`serve`). A reader connects to all of them (`read`). `docs/protocol.md`, "Running
//! tunnels", specifies both.

mod read;
mod serve;

pub use read::{Published, read};
pub(crate) use serve::{Publication, serve};

use serde::{Deserialize, Serialize};
use std::io;
use std::time::Duration;
use thiserror::Error;

/// Writable only for root, and empty after the node's start.
pub const DIRECTORY: &str = "/run/pve-tunnel/tunnels";

/// The longest line, in bytes.
const MAX_LINE: usize = 4096;

/// For one connection, at the process that publishes.
const SERVE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the names of the sockets end with. Others in the directory are not complete.
const EXTENSION: &str = "sock";

/// Why a process does not publish, for its log. Everything else works.
#[derive(Debug, Error)]
#[error("'pve-tunnel list' will not show this process: it cannot publish in '{DIRECTORY}': {0}")]
pub(crate) struct Unpublished(pub(crate) io::Error);

/// Longest text about the peer, in characters.
pub(crate) const MAX_PEER: usize = 300;

/// A running tunnel: one process, at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The process.
    pub pid: u32,
    /// When it began to publish, in seconds since 1970-01-01 UTC.
    pub since: u64,
    /// For how long it has published, by the monotonic clock.
    pub seconds: f64,
    /// What it transfers.
    #[serde(flatten)]
    pub state: TunnelState,
}

/// What a process transfers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelState {
    /// Whether it is a connector or a listener.
    pub role: Role,
    /// The guest's ID on this node.
    #[serde(default)]
    pub guest: Option<u32>,
    /// The guest's ID on the other node.
    #[serde(default)]
    pub peer_guest: Option<u32>,
    /// The other node: an address, an address with a port, or a host with a port.
    #[serde(default)]
    pub peer: Option<String>,
    /// The name of the plane.
    #[serde(default)]
    pub plane: Option<String>,
    /// Bytes to the other node.
    pub sent: u64,
    /// Bytes from the other node.
    pub received: u64,
    /// Bytes in both directions that are expected for the whole migration.
    #[serde(default)]
    pub total: Option<u64>,
    /// `about` or `at least`, if there is a total.
    #[serde(default)]
    pub total_is: Option<String>,
}

/// The end of a tunnel that a process serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A connector.
    Source,
    /// A listener.
    Target,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::thread;
    use std::time::Instant;

    fn state(sent: u64) -> TunnelState {
        TunnelState {
            role: Role::Source,
            guest: Some(100),
            peer_guest: Some(200),
            peer: Some("192.0.2.7:60000".to_owned()),
            plane: Some("tls".to_owned()),
            sent,
            received: 4,
            total: None,
            total_is: None,
        }
    }

    /// Reads on a thread of its own, while the tasks of this one run.
    async fn read_beside(directory: &Path) -> Published {
        let directory = directory.to_owned();
        tokio::task::spawn_blocking(move || read(&directory).unwrap())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn each_publication_is_read_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("run/tunnels");
        assert_eq!(read(&directory).unwrap(), Published::default());

        let first = Publication::open(&directory).unwrap().unwrap();
        let second = Publication::open(&directory).unwrap().unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        for entry in fs::read_dir(&directory).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let published = tokio::select! {
            published = read_beside(&directory) => published,
            never = serve(Some(&first), || state(1)) => match never {},
            never = serve(Some(&second), || state(2)) => match never {},
        };
        assert!(published.unanswered.is_empty());
        let mut sent: Vec<u64> = published.tunnels.iter().map(|one| one.state.sent).collect();
        sent.sort_unstable();
        assert_eq!(sent, [1, 2]);
        for tunnel in &published.tunnels {
            assert_eq!(tunnel.pid, std::process::id());
            assert_eq!(tunnel.state, state(tunnel.state.sent));
        }

        drop((first, second));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn the_socket_of_a_killed_process_is_skipped_and_removed_by_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        // Closing the socket leaves its name, as SIGKILL does.
        drop(UnixListener::bind(directory.join("1-0.sock")).unwrap());
        assert_eq!(read(directory).unwrap(), Published::default());
        let other = UnixListener::bind(directory.join("2-0.sock")).unwrap();
        let _own = Publication::open(directory).unwrap().unwrap();
        assert!(!directory.join("1-0.sock").exists());
        assert!(directory.join("2-0.sock").exists());
        drop(other);
    }

    #[test]
    fn processes_that_do_not_answer_are_reported_within_one_limit() {
        let directory = tempfile::tempdir().unwrap();
        let bind = |name: &str| UnixListener::bind(directory.path().join(name)).unwrap();
        // These accept no connection, as a suspended process does.
        let _silent = [bind("11-0.sock"), bind("12-0.sock"), bind("13-0.sock")];
        let wrong = bind("14-0.sock");
        thread::spawn(move || {
            let (mut connection, _) = wrong.accept().unwrap();
            std::io::Write::write_all(&mut connection, b"[]\n").unwrap();
        });
        // Not a socket of a tunnel.
        fs::write(directory.path().join("15-0.sock"), "").unwrap();
        fs::write(directory.path().join("notes"), "").unwrap();
        let started = Instant::now();
        let published = read(directory.path()).unwrap();
        assert!(published.tunnels.is_empty());
        assert_eq!(published.unanswered, [11, 12, 13, 14]);
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn a_line_of_another_version_is_read() {
        let line = json!({
            "role": "target", "pid": 7, "since": 1, "seconds": 2, "sent": 3, "received": 4,
            "plane": "quic", "something": ["of a newer version"],
        });
        let tunnel: Tunnel = serde_json::from_value(line).unwrap();
        assert_eq!(tunnel.state.role, Role::Target);
        assert_eq!(tunnel.state.guest, None);
        assert_eq!(tunnel.state.plane.as_deref(), Some("quic"));
    }
}
