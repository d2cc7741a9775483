//! What an administrator has configured, and what follows from it for one migration.
//!
//! The file `/etc/pve/remote-migration.cfg` names networks for migrations to other clusters, by ID
//! and by remote, and a policy for all of them; its reference is
//! `docs/man/remote-migration.cfg.pod`, the manual page remote-migration.cfg(5).
//! Reading the file is the caller's part, so that everything here is a pure function over text.
//!
//! * [`Configuration::parse`] reads the text strictly: what is not understood is an error with its
//!   line, because a misspelt `require-encryption` must not pass for none;
//! * [`select`] says what one call gets: kind, networks, limits, and whether the administrator has
//!   decided this already.

mod host;
mod parse;
mod select;

pub use host::Host;
pub use select::{Selection, SelectionInput, SourceSelection, TargetSelection, select};

use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

use crate::network::NetworkError;
use crate::plane::MigrationType;

/// Largest file, in bytes: pmxcfs, where it lives, keeps no larger one.
pub const MAX_FILE: usize = 1 << 20;

/// Longest line, in bytes: room for the remotes of a cluster of a hundred nodes.
pub const MAX_LINE: usize = 4096;

/// Most sections of a file: many times the clusters that anybody migrates between.
pub const MAX_SECTIONS: usize = 256;

/// Lengths of an ID, in characters. Two at least, as for every ID of Proxmox VE's configurations.
pub const ID_LEN: RangeInclusive<usize> = 2..=40;

/// After how long without a sign of life the other node counts as dead, in seconds, unless an entry
/// says otherwise: longer than a switch takes to bring its ports up again.
pub const DEAD_PEER_TIMEOUT: u16 = 60;

/// [`DEAD_PEER_TIMEOUT`] as a duration, for options that do not set it.
pub fn default_dead_peer_timeout() -> Duration {
    Duration::from_secs(DEAD_PEER_TIMEOUT.into())
}

/// What an entry may say instead, in seconds: TCP itself gives up before the hour is over.
pub const DEAD_PEER_TIMEOUTS: RangeInclusive<u16> = 1..=3600;

/// A configuration that was read. The default is that of an empty file, and of none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configuration {
    /// In the order of the file, no ID and no remote twice.
    pub networks: Vec<Network>,
    /// No migration may send guest data in clear text, whatever a network or a call says.
    pub require_encryption: bool,
}

impl Configuration {
    /// Reads the content of the file, UTF-8, of at most [`MAX_FILE`] bytes.
    ///
    /// # Errors
    /// The first thing that is not understood, with its line: unknown sections and keys,
    /// duplicates, values that are none, a remote in two networks, bytes that are no text.
    pub fn parse(content: &[u8]) -> Result<Self, ConfigurationError> {
        parse::parse(content)
    }

    /// The network of that ID.
    pub fn network(&self, id: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.id == id)
    }

    /// The network that is for this remote; there is one at most.
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
    /// The targets that it is for; empty: it is used by ID alone, and for any target.
    pub remotes: Vec<Host>,
    /// This side of it: a CIDR or an interface name, as it was written.
    pub source: Option<String>,
    /// The other side: a CIDR, an interface name, or an ID of the target's own configuration, as it
    /// was written.
    pub target: Option<String>,
    /// Which types of migration may use it, at least one.
    pub allowed: Vec<MigrationType>,
    /// Which one a call gets that does not say; one of `allowed`.
    pub default: MigrationType,
    /// Clear text may go to publicly routable addresses.
    pub public: bool,
    /// Clear text may go through the default gateway.
    pub gateway: bool,
    /// Seconds, one of [`DEAD_PEER_TIMEOUTS`].
    pub dead_peer_timeout: u16,
    /// For people.
    pub comment: Option<String>,
}

/// Whether a text can be the ID of a network: a letter, then letters, digits, `-`, `_` and `.`, and
/// as long as [`ID_LEN`] says. Many interface names can.
pub fn is_id(text: &str) -> bool {
    id_mistake(text).is_none()
}

fn id_mistake(text: &str) -> Option<&'static str> {
    let of_ids = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !text.starts_with(|first: char| first.is_ascii_alphabetic()) {
        Some("does not begin with a letter")
    } else if !text.bytes().all(of_ids) {
        Some("has characters outside letters, digits, '-', '_' and '.'")
    } else if !ID_LEN.contains(&text.len()) {
        Some("does not have 2 to 40 characters")
    } else {
        None
    }
}

/// Why there is no configuration, or nothing in it for a call.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigurationError {
    /// The file is above [`MAX_FILE`].
    #[error("the file has {bytes} bytes, at most 1048576 are accepted")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// Bytes that are no text.
    #[error("line {line}: is not UTF-8; save the file as UTF-8")]
    NotUtf8 {
        /// The line, from 1.
        line: usize,
    },
    /// A line that is not understood.
    #[error("line {line}: {mistake}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, where.
        mistake: String,
    },
    /// The call's remote can be no host.
    #[error("remote '{host}' {reason}")]
    Remote {
        /// The text, cut if it is long.
        host: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The call's network is neither ID, CIDR nor interface name.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The call's network can only be an ID, and there is none such.
    #[error(
        "migration network '{id}' is not configured (configured: {known}), and is too long for the name of an interface"
    )]
    UnknownId {
        /// The ID.
        id: String,
        /// Those that are.
        known: String,
    },
    /// The network asked for is kept for other remotes.
    #[error(
        "network '{id}' is configured for {remotes}, not for '{remote}': add that to its 'remote', or omit migration_network"
    )]
    OtherRemote {
        /// The network.
        id: String,
        /// Those that it is for.
        remotes: String,
        /// The call's remote.
        remote: String,
    },
    /// The network does not allow the type that was asked for.
    #[error(
        "network '{id}' does not allow migration_type={asked} (it allows: {allowed}): ask for what it allows, or change its 'allow'"
    )]
    NotAllowed {
        /// The network.
        id: String,
        /// What the call asks for.
        asked: &'static str,
        /// What it could have.
        allowed: String,
    },
    /// Clear text, against the policy.
    #[error(
        "{cause} would send guest data in clear text, but the policy in the configuration requires encryption (require-encryption): {way_out}"
    )]
    EncryptionRequired {
        /// The call, or the network's default.
        cause: String,
        /// What to do instead.
        way_out: String,
    },
}
