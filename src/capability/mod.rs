//! The worker's version reply and its capabilities.
//!
//! This module consists of pure functions over plain data; the caller exchanges the messages.
//!
//! * [`parse_version`] reads the reply to `version`, and checks that the target supports this
//!   node's tunnel version.
//! * [`Capabilities`] is the list of what a target supports. [`Capabilities::merge`] joins two
//!   lists.
//!
//! [`plan`](mod@crate::plan) decides with them how guest data travels.

mod version;

pub use version::{OWN_API, VersionReply, parse_version};

use crate::scalar;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// Most names in one `caps` list. The limit is many times the number of names that exist, and
/// bounds the memory that a reply can use.
pub const MAX_CAPS: usize = 64;

/// Longest capability name, in characters.
pub const MAX_CAP_LEN: usize = 64;

/// The capabilities that this version recognizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// `insecure-remote`: the `start` command can make QEMU listen on clear TCP in the migration
    /// network.
    InsecureRemote,
    /// `direct-tls`: the target can run a listener for the `tls` plane.
    DirectTls,
    /// `direct-tcp`: the target can run a listener for the `tcp` plane.
    DirectTcp,
}

impl Capability {
    /// The capability with that name, if this version recognizes it.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "insecure-remote" => Some(Self::InsecureRemote),
            "direct-tls" => Some(Self::DirectTls),
            "direct-tcp" => Some(Self::DirectTcp),
            _ => None,
        }
    }

    /// Its name in `caps`.
    pub fn name(self) -> &'static str {
        match self {
            Self::InsecureRemote => "insecure-remote",
            Self::DirectTls => "direct-tls",
            Self::DirectTcp => "direct-tcp",
        }
    }
}

/// A checked `caps` list. Each name occurs once, in the order of its first occurrence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// The names that this version recognizes.
    pub caps: Vec<Capability>,
    /// All other names. They are kept and reported, and have no effect on any plan.
    pub unknown: Vec<String>,
}

impl Capabilities {
    /// Reads the value of `caps`: an array of at most [`MAX_CAPS`] strings of 1 to [`MAX_CAP_LEN`]
    /// characters from `[a-z0-9-]`. Duplicates become one.
    ///
    /// # Errors
    /// Any other value, with its index in the list. One bad entry makes the whole list invalid: the
    /// list decides whether guest data travels in clear text, so nothing is guessed.
    pub fn from_json(value: &Value) -> Result<Self, CapabilityError> {
        let Value::Array(list) = value else {
            return Err(CapabilityError::CapsNotArray {
                found: scalar::kind(value),
            });
        };
        if list.len() > MAX_CAPS {
            return Err(CapabilityError::TooManyCaps { count: list.len() });
        }
        let mut all = Self::default();
        for (index, entry) in list.iter().enumerate() {
            let Value::String(name) = entry else {
                return Err(CapabilityError::CapNotString {
                    index,
                    found: scalar::kind(entry),
                });
            };
            all.add(index, name)?;
        }
        Ok(all)
    }

    /// As [`Capabilities::from_json`], for names that are strings already. Their number is not
    /// limited here, because they may come from several lists, each of which was limited.
    ///
    /// # Errors
    /// A name that is empty, too long, or has other characters.
    pub fn from_names<S: AsRef<str>>(names: &[S]) -> Result<Self, CapabilityError> {
        let mut all = Self::default();
        for (index, name) in names.iter().enumerate() {
            all.add(index, name.as_ref())?;
        }
        Ok(all)
    }

    /// Whether the list contains this capability.
    pub fn has(&self, capability: Capability) -> bool {
        self.caps.contains(&capability)
    }

    /// The names of both lists, each once. The version reply and the answer to the seam's `hello`
    /// may both have `caps`.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for capability in &other.caps {
            all.add_known(*capability);
        }
        for name in &other.unknown {
            all.add_unknown(name);
        }
        all
    }

    /// All names, the known ones first.
    pub fn names(&self) -> Vec<&str> {
        let known = self.caps.iter().map(|capability| capability.name());
        known
            .chain(self.unknown.iter().map(String::as_str))
            .collect()
    }

    fn add(&mut self, index: usize, name: &str) -> Result<(), CapabilityError> {
        let reason = if name.is_empty() {
            "is empty".to_owned()
        } else if name.chars().count() > MAX_CAP_LEN {
            format!("is longer than {MAX_CAP_LEN} characters")
        } else if !name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        {
            "has characters other than a-z, 0-9 and '-'".to_owned()
        } else {
            match Capability::from_name(name) {
                Some(capability) => self.add_known(capability),
                None => self.add_unknown(name),
            }
            return Ok(());
        };
        Err(CapabilityError::CapName {
            index,
            name: scalar::shown(name),
            reason,
        })
    }

    fn add_known(&mut self, capability: Capability) {
        if !self.caps.contains(&capability) {
            self.caps.push(capability);
        }
    }

    fn add_unknown(&mut self, name: &str) {
        if !self.unknown.iter().any(|known| known == name) {
            self.unknown.push(name.to_owned());
        }
    }
}

/// Why a version reply or a `caps` list is rejected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CapabilityError {
    /// The reply is not JSON.
    #[error("the target's version reply is not JSON: {reason}")]
    NotJson {
        /// The parser's error, with line and column.
        reason: String,
    },
    /// The reply is JSON, but not an object.
    #[error("the target's version reply is {found}, expected an object")]
    NotObject {
        /// The JSON type of the reply.
        found: &'static str,
    },
    /// The worker answered `success: false`.
    #[error("the target refused the version command: {message}")]
    Refused {
        /// The worker's `msg`, on one line, cut if it is long.
        message: String,
    },
    /// `api` or `age` is missing.
    #[error("the target's version reply has no '{key}'")]
    Missing {
        /// `api` or `age`.
        key: &'static str,
    },
    /// `api` or `age` is not a decimal number from 0 to 4294967295.
    #[error("'{key}' in the target's version reply is {found}, expected a decimal number")]
    NotDecimal {
        /// `api` or `age`.
        key: &'static str,
        /// The value or its JSON type.
        found: String,
    },
    /// `caps` is not an array.
    #[error("'caps' of the target is {found}, expected an array of names")]
    CapsNotArray {
        /// The JSON type of `caps`.
        found: &'static str,
    },
    /// `caps` is too long.
    #[error("'caps' of the target has {count} entries, at most {MAX_CAPS} are accepted")]
    TooManyCaps {
        /// Number of entries.
        count: usize,
    },
    /// An entry of `caps` is not a string.
    #[error("entry {index} of the target's 'caps' is {found}, expected a name")]
    CapNotString {
        /// Index of the entry, from 0.
        index: usize,
        /// The JSON type of the entry.
        found: &'static str,
    },
    /// An entry of `caps` is not a valid name.
    #[error("entry {index} of the target's 'caps', {name}, {reason}")]
    CapName {
        /// Index of the entry, from 0.
        index: usize,
        /// The entry, quoted, cut if it is long.
        name: String,
        /// What is wrong with it, as the rest of a sentence.
        reason: String,
    },
    /// The target no longer supports this node's tunnel version.
    #[error(
        "the target supports tunnel versions {oldest} to {api}, this node supports {own}: upgrade this node"
    )]
    TargetTooNew {
        /// The oldest version that the target supports.
        oldest: u32,
        /// The newest version that the target supports.
        api: u32,
        /// This node's version.
        own: u32,
    },
    /// The target does not support this node's tunnel version yet.
    #[error(
        "the target supports tunnel versions up to {api}, this node supports {own}: upgrade the target node"
    )]
    TargetTooOld {
        /// The newest version that the target supports.
        api: u32,
        /// This node's version.
        own: u32,
    },
}
