//! `config`: checks the configuration of migrations to other clusters, and reports what a migration
//! to one target would get, and why. Every decision is the library's.

mod report;

use crate::configuration_file::{self, FileError};
use pve_tunnel::configuration::{
    Configuration, ConfigurationError, Lines, Setting, SourceSelection, select_source, settings,
};
use pve_tunnel::plan::{Node, PlanInput, Privilege, plan, privileges};
use pve_tunnel::plane::{MigrationType, Plane};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The planes of a migration that `qm` or `pct` starts. Plane `websocket` is always possible.
const PLANES: [Plane; 2] = [Plane::Tls, Plane::Tcp];

/// The offers of a target: every plane, and none.
const OFFERS: [&[&str]; 2] = [&["insecure-remote", "direct-tls", "direct-tcp"], &[]];

/// A valid host, for a network that is not restricted to certain remotes.
const ANY_HOST: &str = "any.invalid";

/// What the file contains, which `config --json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct ConfigReport {
    file: PathBuf,
    /// Whether the file exists. Without it, the defaults apply.
    exists: bool,
    valid: bool,
    /// The first mistake, or why the file cannot be read.
    error: Option<String>,
    require_encryption: bool,
    /// The line of the policy.
    policy_line: Option<usize>,
    networks: Vec<NetworkSummary>,
    migration: Option<Migration>,
}

#[derive(Debug, Serialize)]
struct NetworkSummary {
    id: String,
    line: usize,
    remotes: Vec<String>,
    allow: Vec<MigrationType>,
    default: MigrationType,
}

/// A migration whose call requests neither type nor network, or only a network that has no remotes.
#[derive(Debug, Serialize)]
struct Migration {
    /// The target's host; none for any host.
    remote: Option<String>,
    /// Why this network applies; none if the migration is refused.
    reason: Option<String>,
    /// Why the migration is refused.
    refused: Option<String>,
    settings: Vec<Setting>,
    /// What a call gets that requests the type.
    types: Vec<OfType>,
}

#[derive(Debug, Serialize)]
struct OfType {
    #[serde(rename = "type")]
    migration_type: MigrationType,
    /// The possible planes, the preferred one first.
    planes: Vec<Plane>,
    refused: Option<String>,
    /// The privileges that the user needs besides those of every migration.
    privileges: Vec<Privilege>,
    /// The network that the target's file is assumed to contain. Without it, the target requires the
    /// privileges that it requires for a network of the call.
    network_at_target: Option<String>,
}

impl ConfigReport {
    /// Reads the file, or that of this node, and reports what applies to the target: the ID of a
    /// network, or a host.
    ///
    /// # Errors
    /// The target is not a host. Mistakes in the file are part of the report.
    pub(crate) fn of(file: Option<&Path>, to: Option<&str>) -> Result<Self, ConfigurationError> {
        let path = file.unwrap_or_else(|| Path::new(configuration_file::PATH));
        let (parsed, error) = match configuration_file::read(path) {
            Ok(None) if file.is_some() => {
                let cause = nix::errno::Errno::ENOENT.into();
                let path = path.to_owned();
                (None, Some(FileError::Read { path, cause }))
            }
            Ok(parsed) => (parsed, None),
            Err(error) => (None, Some(error)),
        };
        let exists = parsed.is_some() || matches!(error, Some(FileError::Invalid { .. }));
        let (configuration, lines) = parsed.unwrap_or_default();
        Ok(Self {
            file: path.to_owned(),
            exists,
            valid: error.is_none(),
            require_encryption: configuration.require_encryption,
            policy_line: lines.policy(),
            networks: summaries(&configuration, &lines),
            migration: match to {
                Some(to) if error.is_none() => Some(migration(&configuration, &lines, to)?),
                _ => None,
            },
            error: error.map(|error| error.to_string()),
        })
    }

    /// Whether the file is valid, and permits the migration.
    pub(crate) fn is_good(&self) -> bool {
        let refused = |migration: &Migration| migration.refused.is_some();
        self.valid && !self.migration.as_ref().is_some_and(refused)
    }

    /// The first mistake in the file, or why it cannot be read.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

impl OfType {
    /// Adds what the target requires, which decides by its own file.
    fn add_those_of_target(&mut self, selection: &SourceSelection) {
        let configured = selection.may_be_configured_at_target();
        let network = selection.network.as_deref();
        for needed in privileges(self.migration_type, network, configured) {
            let is_same = |known: &&mut Privilege| {
                known.path == needed.path && known.privilege == needed.privilege
            };
            match self.privileges.iter_mut().find(is_same) {
                Some(known) if known.on.contains(&Node::Target) => {}
                Some(known) => known.on.push(Node::Target),
                None => self.privileges.push(Privilege {
                    on: vec![Node::Target],
                    ..needed
                }),
            }
        }
        self.network_at_target = selection.network.clone().filter(|_| configured);
    }
}

fn summaries(configuration: &Configuration, lines: &Lines) -> Vec<NetworkSummary> {
    let summary = |network: &pve_tunnel::configuration::Network| NetworkSummary {
        id: network.id.clone(),
        line: lines.section(&network.id).unwrap_or_default(),
        remotes: network.remotes.iter().map(ToString::to_string).collect(),
        allow: network.allowed.clone(),
        default: network.default,
    };
    configuration.networks.iter().map(summary).collect()
}

fn migration(
    configuration: &Configuration,
    lines: &Lines,
    to: &str,
) -> Result<Migration, ConfigurationError> {
    let (remote, network) = match configuration.network(to) {
        None => (Some(to.to_owned()), None),
        Some(network) => match network.remotes.first() {
            Some(remote) => (Some(remote.to_string()), None),
            None => (None, Some(network.id.clone())),
        },
    };
    let call = |migration_type: Option<MigrationType>| {
        let remote = remote.as_deref().unwrap_or(ANY_HOST);
        select_source(configuration, remote, migration_type, network.as_deref())
    };
    let (selection, refused) = match call(None) {
        Ok(selection) => (Some(selection), None),
        Err(error @ ConfigurationError::Remote { .. }) => return Err(error),
        Err(error) => (None, Some(error.to_string())),
    };
    let types = [MigrationType::Secure, MigrationType::Insecure];
    Ok(Migration {
        refused,
        settings: match &selection {
            Some(selection) => settings(selection, lines),
            None => Vec::new(),
        },
        reason: selection.map(|selection| selection.reason),
        types: types
            .map(|kind| of_type(kind, call(Some(kind))))
            .into_iter()
            .collect(),
        remote,
    })
}

fn of_type(kind: MigrationType, selection: Result<SourceSelection, ConfigurationError>) -> OfType {
    let mut of_type = OfType {
        migration_type: kind,
        planes: Vec::new(),
        refused: None,
        privileges: Vec::new(),
        network_at_target: None,
    };
    let selection = match selection {
        Ok(selection) => selection,
        Err(error) => {
            of_type.refused = Some(error.to_string());
            return of_type;
        }
    };
    for offer in OFFERS {
        let planned = plan(&PlanInput {
            migration_type: kind,
            migration_network: selection.migration_network.clone(),
            configured: selection.configured,
            caps: offer.iter().map(ToString::to_string).collect(),
            planes: PLANES.to_vec(),
            require_encryption: selection.require_encryption,
            tls_withheld: None,
            dial: None,
        });
        match planned {
            Ok(planned) => {
                of_type.planes.push(planned.plane);
                of_type.privileges = planned.privileges;
                of_type.add_those_of_target(&selection);
            }
            // A target that offers every plane permits every type that this node supports, so this
            // is the target that offers none.
            Err(_) if !of_type.planes.is_empty() => {}
            Err(error) => of_type.refused = Some(error.to_string()),
        }
    }
    of_type
}
