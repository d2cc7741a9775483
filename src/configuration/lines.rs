//! Where each value comes from: the line of the file, or the default.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{POLICY_ID, SourceSelection};
use crate::plane::MigrationType;

/// The lines of a file's sections and keys, from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    pub(super) policy: Option<usize>,
    sections: BTreeMap<String, SectionLines>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct SectionLines {
    line: usize,
    keys: BTreeMap<String, usize>,
}

impl Lines {
    pub(super) fn insert(&mut self, id: String, line: usize, keys: BTreeMap<String, usize>) {
        self.sections.insert(id, SectionLines { line, keys });
    }

    /// The line at which the section with this ID begins.
    pub fn section(&self, id: &str) -> Option<usize> {
        self.sections.get(id).map(|section| section.line)
    }

    /// The line of a key in the section with this ID.
    pub fn key(&self, id: &str, key: &str) -> Option<usize> {
        self.sections.get(id)?.keys.get(key).copied()
    }

    /// The line at which the policy begins.
    pub fn policy(&self) -> Option<usize> {
        self.policy
    }

    fn origin(&self, id: &str, key: &str) -> Origin {
        match self.key(id, key) {
            Some(line) => Origin::File {
                section: id.to_owned(),
                line,
            },
            None => Origin::Default,
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "origin", rename_all = "lowercase")]
pub enum Origin {
    /// The file does not define it.
    Default,
    /// The file defines it.
    File {
        /// ID of the section.
        section: String,
        /// Line of the key, from 1.
        line: usize,
    },
}

/// A value that applies to a migration, with its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The key in the file that defines the value, or would define it.
    pub key: &'static str,
    /// The value as the file contains it; none for a default that depends on the node or the plane.
    pub value: Option<String>,
    /// Where the value comes from.
    #[serde(flatten)]
    pub origin: Origin,
}

/// The settings of a migration from this node whose call requests neither type nor network, or a
/// configured network by its ID.
pub fn settings(selection: &SourceSelection, lines: &Lines) -> Vec<Setting> {
    let id = match selection.configured {
        true => selection.migration_network.as_deref(),
        false => None,
    };
    let origin = |key: &str| match id {
        Some(id) => lines.origin(id, key),
        None => Origin::Default,
    };
    let setting = |key: &'static str, value: Option<String>| Setting {
        key,
        value,
        origin: origin(key),
    };
    let flag = |value: bool| Some(u8::from(value).to_string());
    let kind = selection.migration_type;
    let mut default = setting("default", Some(kind.name().to_owned()));
    if default.origin == Origin::Default && kind != MigrationType::default() {
        // The only type that the network allows.
        default.origin = origin("allow");
    }
    vec![
        default,
        Setting {
            key: "require-encryption",
            value: flag(selection.require_encryption),
            origin: lines.origin(POLICY_ID, "require-encryption"),
        },
        setting("source", selection.source_network.clone()),
        setting("target", selection.network.clone()),
        setting("public", flag(selection.public)),
        setting("gateway", flag(selection.gateway)),
        setting(
            "dead-peer-timeout",
            Some(selection.dead_peer_timeout.to_string()),
        ),
        setting("congestion", Some(selection.congestion.name().to_owned())),
        setting("buffer", Some(selection.buffer.to_string())),
        setting("lanes", selection.lanes.map(|lanes| lanes.to_string())),
        setting(
            "threads",
            selection.threads.map(|threads| threads.to_string()),
        ),
        setting("compression", Some(selection.compression.name().to_owned())),
    ]
}
