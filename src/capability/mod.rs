//! The worker's version reply, its capabilities, and the plan made of them.
//!
//! Everything here is a pure function over plain data: the caller does the talking, this room
//! decides. Both ends of a migration use it, so that they cannot come to different plans.
//!
//! * [`parse_version`] reads the reply to `version` and checks that the two ends speak to each other at all;
//! * [`Capabilities`] is what a target promises, [`Capabilities::merge`] joins what it says in two places;
//! * [`plan`] is the decision table: which plane, with which privileges and warnings, and why.

mod version;

pub use version::{OWN_API, VersionReply, parse_version};

use crate::scalar;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// Most names in one `caps` list: many times what exists, and a bound on what a reply can make us
/// keep.
pub const MAX_CAPS: usize = 64;

/// Longest capability name, in characters.
pub const MAX_CAP_LEN: usize = 64;

/// What a target may promise, as far as this version knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// `insecure-remote`: its `start` command accepts QEMU listening on clear TCP on the migration
    /// network.
    InsecureRemote,
    /// `direct-tls`: it can run a listener that speaks the `tls` plane.
    DirectTls,
    /// `direct-tcp`: it can run a listener that speaks the `tcp` plane.
    DirectTcp,
}

impl Capability {
    /// The capability of that name, if this version knows it.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "insecure-remote" => Some(Self::InsecureRemote),
            "direct-tls" => Some(Self::DirectTls),
            "direct-tcp" => Some(Self::DirectTcp),
            _ => None,
        }
    }

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::InsecureRemote => "insecure-remote",
            Self::DirectTls => "direct-tls",
            Self::DirectTcp => "direct-tcp",
        }
    }
}

/// A checked `caps` list, each name once and in the order first seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Names this version knows.
    pub caps: Vec<Capability>,
    /// Names it does not: kept and reported, without effect on any plan.
    pub unknown: Vec<String>,
}

impl Capabilities {
    /// Reads the value of `caps`: an array of at most [`MAX_CAPS`] strings of 1 to [`MAX_CAP_LEN`]
    /// characters from `[a-z0-9-]`. Duplicates become one.
    ///
    /// # Errors
    /// Anything else, named with its place in the list. A list that is partly wrong is wrong: what
    /// a target can do decides whether guest data travels in clear text, so nothing is guessed.
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

    /// As [`Capabilities::from_json`], from names that are strings already. There is no limit on
    /// their number here: the lists they come from, which may have been merged, had one each.
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

    /// Whether the target promises this.
    pub fn has(&self, capability: Capability) -> bool {
        self.caps.contains(&capability)
    }

    /// What either list names, each name once: the version reply and a seam's `hello` may both
    /// carry `caps`.
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

    /// Every name, known ones first.
    pub fn names(&self) -> Vec<&str> {
        let known = self.caps.iter().map(|capability| capability.name());
        known
            .chain(self.unknown.iter().map(String::as_str))
            .collect()
    }

    fn add(&mut self, index: usize, name: &str) -> Result<(), CapabilityError> {
        let reason = if name.is_empty() {
            "is empty"
        } else if name.chars().count() > MAX_CAP_LEN {
            "is longer than 64 characters"
        } else if !name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        {
            "has characters outside a-z, 0-9 and '-'"
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

/// Why a version reply or a `caps` list was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CapabilityError {
    /// Not JSON at all.
    #[error("the target's version reply is not JSON: {reason}")]
    NotJson {
        /// What the parser says, with line and column.
        reason: String,
    },
    /// JSON, but no object.
    #[error("the target's version reply is {found}, expected an object")]
    NotObject {
        /// The JSON type it has.
        found: &'static str,
    },
    /// The worker answered `success: false`.
    #[error("the target refused the version command: {message}")]
    Refused {
        /// Its `msg`, on one line and cut to a readable length.
        message: String,
    },
    /// `api` or `age` is missing.
    #[error("the target's version reply has no '{key}'")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// `api` or `age` is something else than a decimal number from 0 to 4294967295.
    #[error("'{key}' in the target's version reply is {found}, expected a decimal number")]
    NotDecimal {
        /// The key.
        key: &'static str,
        /// What it is instead.
        found: String,
    },
    /// `caps` is something else than an array.
    #[error("'caps' of the target is {found}, expected an array of names")]
    CapsNotArray {
        /// The JSON type it has.
        found: &'static str,
    },
    /// `caps` is too long.
    #[error("'caps' of the target has {count} entries, at most 64 are accepted")]
    TooManyCaps {
        /// How many it has.
        count: usize,
    },
    /// An entry of `caps` is no string.
    #[error("entry {index} of the target's 'caps' is {found}, expected a name")]
    CapNotString {
        /// Its place, from 0.
        index: usize,
        /// The JSON type it has.
        found: &'static str,
    },
    /// An entry of `caps` is no name.
    #[error("entry {index} of the target's 'caps', {name}, {reason}")]
    CapName {
        /// Its place, from 0.
        index: usize,
        /// The entry, quoted, cut if it is long.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The target's software no longer speaks our version.
    #[error(
        "the target speaks tunnel versions {oldest} to {api}, this node speaks {own}: upgrade this node"
    )]
    TargetTooNew {
        /// The oldest version the target speaks.
        oldest: u32,
        /// Its newest.
        api: u32,
        /// Ours.
        own: u32,
    },
    /// The target's software does not speak our version yet.
    #[error(
        "the target speaks tunnel versions up to {api}, this node speaks {own}: upgrade the target node"
    )]
    TargetTooOld {
        /// The newest version the target speaks.
        api: u32,
        /// Ours.
        own: u32,
    },
}
