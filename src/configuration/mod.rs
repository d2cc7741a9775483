//! The configuration that an administrator writes, and what it means for one migration.
//!
//! The file `/etc/pve/remote-migration.cfg` defines networks for migrations to other clusters, by
//! ID and by remote, and a policy for all of them. Its reference is the manual page
//! remote-migration.cfg(5), in `docs/man/remote-migration.cfg.pod`. The caller reads the file, so
//! that this module consists of pure functions over text.
//!
//! * [`Configuration::parse`] is strict: unknown text is an error with its line. A misspelt
//!   `require-encryption` must not count as an absent one.
//! * [`select`] returns what applies to one call: type, networks and limits, and whether the
//!   administrator has configured them.
//! * [`settings`] returns where each value of a selection comes from.

mod host;
mod lines;
mod parse;
mod select;

pub use host::Host;
pub use lines::{Lines, Origin, Setting, settings};
pub use select::{
    Selection, SelectionInput, SourceSelection, TargetSelection, select, select_source,
    select_target,
};

use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

use crate::lanes::Compression;
use crate::network::NetworkError;
use crate::plane::MigrationType;
use crate::tuning::{Buffer, Congestion};

/// Largest file, in bytes. The file is in pmxcfs, which has the same limit.
pub const MAX_FILE: usize = 1 << 20;

/// Longest line, in bytes. A line can list the remotes of a cluster with a hundred nodes.
pub const MAX_LINE: usize = 4096;

/// Most sections of a file, many times the number of clusters of one operator.
pub const MAX_SECTIONS: usize = 256;

/// Length of an ID, in characters. Every ID in Proxmox VE's configurations has at least two.
pub const ID_LEN: RangeInclusive<usize> = 2..=40;

/// Default for the time without data or answers after which the peer counts as dead, in seconds. It
/// is longer than a switch needs to enable its ports after a restart.
pub const DEAD_PEER_TIMEOUT: u16 = 60;

/// [`DEAD_PEER_TIMEOUT`] as a duration.
pub fn default_dead_peer_timeout() -> Duration {
    Duration::from_secs(DEAD_PEER_TIMEOUT.into())
}

/// Values of `dead-peer-timeout`, in seconds. TCP itself gives up in less than an hour.
pub const DEAD_PEER_TIMEOUTS: RangeInclusive<u16> = 1..=3600;

/// The ID of the `policy` section, which applies to all nodes of the cluster.
const POLICY_ID: &str = "cluster";

/// The content of a configuration file. The default stands for an empty file, and for no file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configuration {
    /// In the order of the file. IDs and remotes are unique.
    pub networks: Vec<Network>,
    /// No migration may send guest data in clear text, even if a network or a call allows it.
    pub require_encryption: bool,
}

impl Configuration {
    /// Reads the content of the file, UTF-8, of at most [`MAX_FILE`] bytes.
    ///
    /// # Errors
    /// The first mistake, with its line: an unknown section or key, a duplicate, an invalid value,
    /// a remote in two networks, bytes that are not UTF-8.
    pub fn parse(content: &[u8]) -> Result<Self, ConfigurationError> {
        Self::parse_with_lines(content).map(|(configuration, _)| configuration)
    }

    /// As [`Self::parse`], and also returns the lines of the sections and keys.
    ///
    /// # Errors
    /// As for [`Self::parse`].
    pub fn parse_with_lines(content: &[u8]) -> Result<(Self, Lines), ConfigurationError> {
        parse::parse(content)
    }

    /// The network with that ID.
    pub fn network(&self, id: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.id == id)
    }

    /// The network that lists this remote. At most one network does.
    pub fn network_for(&self, remote: &Host) -> Option<&Network> {
        self.networks
            .iter()
            .find(|network| network.remotes.contains(remote))
    }
}

/// A `network` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name in calls, see [`is_id`].
    pub id: String,
    /// The targets that use it by default. If empty, it is used only by its ID, for any target.
    pub remotes: Vec<Host>,
    /// The network of this node: a CIDR or an interface name, as written in the file.
    pub source: Option<String>,
    /// The network of the target: a CIDR, an interface name, or an ID of the target's own
    /// configuration, as written in the file.
    pub target: Option<String>,
    /// The types of migration that may use it, at least one.
    pub allowed: Vec<MigrationType>,
    /// The type of a call that does not specify one; one of `allowed`.
    pub default: MigrationType,
    /// Clear text may go to publicly routable addresses.
    pub public: bool,
    /// Clear text may go through the default gateway.
    pub gateway: bool,
    /// Seconds, one of [`DEAD_PEER_TIMEOUTS`].
    pub dead_peer_timeout: u16,
    /// How TCP reacts to loss.
    pub congestion: Congestion,
    /// The size of the buffers of its sockets.
    pub buffer: Buffer,
    /// The most connections that carry one stream together; none for the default.
    pub lanes: Option<u16>,
    /// The threads that serve them beside a process's own one; none for the default.
    pub threads: Option<u16>,
    /// How the data is compressed.
    pub compression: Compression,
    /// Free text, without effect.
    pub comment: Option<String>,
}

/// Whether a text can be the ID of a network: a letter, then letters, digits, `-`, `_` and `.`,
/// with a length in [`ID_LEN`]. Many interface names have this form too.
pub fn is_id(text: &str) -> bool {
    id_mistake(text).is_none()
}

/// What is wrong with an ID, as the rest of a sentence; none if it is valid.
fn id_mistake(text: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !text.starts_with(|first: char| first.is_ascii_alphabetic()) {
        Some("does not begin with a letter".to_owned())
    } else if !text.bytes().all(allowed) {
        Some("has characters other than letters, digits, '-', '_' and '.'".to_owned())
    } else if !ID_LEN.contains(&text.len()) {
        let (shortest, longest) = (ID_LEN.start(), ID_LEN.end());
        Some(format!("does not have {shortest} to {longest} characters"))
    } else {
        None
    }
}

/// Why a configuration is invalid, or does not permit a call.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigurationError {
    /// The file is above [`MAX_FILE`].
    #[error("the file has {bytes} bytes, at most {MAX_FILE} are accepted")]
    TooLong {
        /// Size of the file.
        bytes: usize,
    },
    /// The bytes of a line are not text.
    #[error("line {line}: is not UTF-8; save the file as UTF-8")]
    NotUtf8 {
        /// The line, from 1.
        line: usize,
    },
    /// A line is not valid.
    #[error("line {line}: {mistake}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, and in which section and key.
        mistake: String,
    },
    /// The call's remote is not a host.
    #[error("remote '{host}' {reason}")]
    Remote {
        /// The text, cut if it is long.
        host: String,
        /// What is wrong with it, as the rest of a sentence.
        reason: String,
    },
    /// The call's network is not an ID, a CIDR or an interface name.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The requested network is configured for other remotes.
    #[error(
        "network '{id}' is configured for {remotes}, not for '{remote}': add '{remote}' to its 'remote', or omit migration_network"
    )]
    OtherRemote {
        /// ID of the network.
        id: String,
        /// The network's remotes.
        remotes: String,
        /// The call's remote.
        remote: String,
    },
    /// The network does not allow the type of the call.
    #[error(
        "network '{id}' does not allow migration_type={requested} (it allows: {allowed}): request a type that it allows, or change its 'allow'"
    )]
    NotAllowed {
        /// ID of the network.
        id: String,
        /// The requested type, or the default.
        requested: &'static str,
        /// The types that the network allows.
        allowed: String,
    },
    /// The call would send clear text, and the policy forbids it.
    #[error(
        "{cause} would send guest data in clear text, but the policy in the configuration requires encryption (require-encryption): {solution}"
    )]
    EncryptionRequired {
        /// The type of the call, or the network's default.
        cause: String,
        /// What to do instead.
        solution: String,
    },
}
