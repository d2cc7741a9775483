//! This node: whether pve-tunnel is on, and what its configuration says about the remote.

use super::report::{Finding, Report, Step};
use crate::activation::{Node, NodeState};
use pve_tunnel::configuration::{
    Configuration, ConfigurationError, Selection, SelectionInput, SourceSelection, select,
};
use pve_tunnel::plane::MigrationType;
use std::io;
use std::path::{Path, PathBuf};

/// The configuration file, as it was read.
pub(super) struct File {
    path: PathBuf,
    content: io::Result<Vec<u8>>,
}

/// What the call of the migration would request.
pub(super) struct Call<'a> {
    pub(super) remote: &'a str,
    pub(super) migration_type: Option<MigrationType>,
    pub(super) network: Option<&'a str>,
}

/// A missing file is the same as an empty one.
pub(super) fn read_configuration(path: &Path) -> File {
    let content = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    };
    File {
        path: path.to_owned(),
        content,
    }
}

/// The first remote of the network with that ID.
pub(super) fn configured_remote(file: &File, id: &str) -> Result<String, String> {
    let path = file.path.display();
    let content = file.content.as_ref().map_err(|error| {
        format!("it has no '=', so it is the ID of a network, but {path} cannot be read: {error}")
    })?;
    let configuration =
        Configuration::parse(content).map_err(|error| format!("{path}, {error}"))?;
    let network = configuration.network(id).ok_or_else(|| {
        format!("it has no '=' and is not the ID of a network in {path} either; expected host=...,apitoken=...")
    })?;
    match network.remotes.first() {
        Some(remote) => Ok(remote.to_string()),
        None => Err(format!("network '{id}' in {path} lists no remote")),
    }
}

/// Reports whether migrations from this node use pve-tunnel.
pub(super) fn check_activation(report: &mut Report) {
    let status = match Node::this_machine().status() {
        Ok(status) => status,
        Err(error) => {
            return report.add(Finding::worse(
                Step::Node,
                format!("the state of this node cannot be determined: {error}"),
                "run 'pve-tunnel status' as root",
            ));
        }
    };
    let version = env!("CARGO_PKG_VERSION");
    let enable = "run 'pve-tunnel enable' on this node";
    report.add(match status.state {
        NodeState::On => Finding::ok(Step::Node, format!("pve-tunnel {version} is on")),
        NodeState::Off => Finding::worse(
            Step::Node,
            "pve-tunnel is off: migrations from this node go the stock way",
            enable,
        ),
        NodeState::HelperOnly => Finding::worse(
            Step::Node,
            "only the connector of pve-tunnel is on: migrations from this node use the plane 'websocket'",
            enable,
        ),
        NodeState::Mixed => Finding::worse(
            Step::Node,
            "pve-tunnel is neither on nor off",
            "run 'pve-tunnel enable' or 'pve-tunnel disable' on this node",
        ),
    });
    for problem in status.problems {
        report.add(Finding::worse(
            Step::Node,
            problem,
            "'pve-tunnel status' shows the details",
        ));
    }
}

/// Reports what the configuration selects for the call; none if it forbids the migration.
pub(super) fn check_configuration(
    file: &File,
    call: &Call<'_>,
    report: &mut Report,
) -> Option<SourceSelection> {
    let path = file.path.display();
    let content = match &file.content {
        Ok(content) => content,
        Err(error) => {
            report.add(Finding::failed(
                Step::Node,
                format!("{path} cannot be read: {error}"),
                "run the check as root",
            ));
            return None;
        }
    };
    let call = SelectionInput::Source {
        remote: call.remote.to_owned(),
        migration_type: call.migration_type,
        migration_network: call.network.map(str::to_owned),
    };
    let selected =
        Configuration::parse(content).and_then(|configuration| select(&configuration, &call));
    match selected {
        Ok(Selection::Source(selection)) => {
            let text = format!(
                "type '{}': {}",
                selection.migration_type.name(),
                selection.reason
            );
            report.add(Finding::ok(Step::Node, text));
            Some(selection)
        }
        Ok(Selection::Target(_)) => None,
        Err(error) => {
            let advice = match &error {
                ConfigurationError::Line { .. }
                | ConfigurationError::NotUtf8 { .. }
                | ConfigurationError::TooLong { .. } => {
                    format!("correct {path}: see remote-migration.cfg(5)")
                }
                _ => "change the arguments, or the configuration: see remote-migration.cfg(5)"
                    .to_owned(),
            };
            report.add(Finding::failed(
                Step::Node,
                format!("{path}, {error}"),
                advice,
            ));
            None
        }
    }
}
