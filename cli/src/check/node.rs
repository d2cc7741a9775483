//! This node: whether pve-tunnel is on, and what its configuration says about the remote.

use super::finding::{Finding, Step};
use super::report::Report;
use crate::activation::{Node, NodeState};
use crate::configuration_file::{self, FileError};
use pve_tunnel::configuration::{
    Configuration, Selection, SelectionInput, SourceSelection, select,
};
use pve_tunnel::plane::MigrationType;
use std::io::ErrorKind;
use std::path::Path;

/// What the call of the migration would request.
pub(super) struct Call<'a> {
    pub(super) remote: &'a str,
    pub(super) migration_type: Option<MigrationType>,
    pub(super) network: Option<&'a str>,
}

/// The configuration, or why it cannot be used. A missing file is the same as an empty one.
pub(super) fn read_configuration(path: &Path) -> Result<Configuration, FileError> {
    let read = configuration_file::read(path)?;
    Ok(read.map_or_else(Configuration::default, |(configuration, _)| configuration))
}

/// What `--to` can be if it is not an ID.
const EXPECTED: &str = "expected host=...,apitoken=...,fingerprint=...";

/// The first remote of the network with that ID, or why there is none, as the rest of a sentence.
pub(super) fn configured_remote(
    configuration: Result<&Configuration, &FileError>,
    id: &str,
) -> Result<String, String> {
    let configuration = configuration
        .map_err(|error| format!("has no '=', so it is the ID of a network; but {error}"))?;
    let network = configuration.network(id).ok_or_else(|| {
        format!("has no '=', and is not the ID of a configured network; {EXPECTED}")
    })?;
    match network.remotes.first() {
        Some(remote) => Ok(remote.to_string()),
        None => Err(format!("is a network without 'remote'; {EXPECTED}")),
    }
}

/// Reports whether migrations from this node use pve-tunnel. With a root, the node is that tree.
/// `configuration` is the file that [`check_configuration`] reports on.
pub(super) fn check_activation(root: Option<&Path>, configuration: &Path, report: &mut Report) {
    let node = root.map_or_else(Node::this_machine, |root| Node::with_root(root.to_owned()));
    let status = match node.activation_status() {
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
        NodeState::Off if !status.proxmox_ve => Finding::worse(
            Step::Node,
            "this is not a Proxmox VE node, so no migration starts here",
            "run the check on a node of the source cluster",
        ),
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
    let mut problems = status.problems;
    if configuration != node.configuration_path() {
        problems.extend(node.configuration_problem());
    }
    for problem in problems {
        report.add(Finding::worse(
            Step::Node,
            problem,
            "'pve-tunnel status' shows the details",
        ));
    }
}

/// Reports what the configuration selects for the call; none if it forbids the migration.
pub(super) fn check_configuration(
    configuration: Result<&Configuration, &FileError>,
    call: &Call<'_>,
    report: &mut Report,
) -> Option<SourceSelection> {
    let configuration = match configuration {
        Ok(configuration) => configuration,
        Err(error) => {
            let advice = match error {
                FileError::Read { cause, .. } if cause.kind() == ErrorKind::PermissionDenied => {
                    "run the check as root"
                }
                FileError::Read { .. } => {
                    "check that it is a file, and that pve-cluster runs on this node"
                }
                FileError::Invalid { .. } => "correct the file: see remote-migration.cfg(5)",
            };
            report.add(Finding::failed(Step::Node, error.to_string(), advice));
            return None;
        }
    };
    let call = SelectionInput::Source {
        remote: call.remote.to_owned(),
        migration_type: call.migration_type,
        migration_network: call.network.map(str::to_owned),
    };
    match select(configuration, &call) {
        Ok(Selection::Source(selection)) => {
            let name = selection.migration_type.name();
            let text = format!("type '{name}': {}", selection.reason);
            report.add(Finding::ok(Step::Node, text));
            Some(selection)
        }
        Ok(Selection::Target(_)) => None,
        Err(error) => {
            let advice = "change the arguments, or the configuration: see remote-migration.cfg(5)";
            report.add(Finding::failed(Step::Node, error.to_string(), advice));
            None
        }
    }
}
