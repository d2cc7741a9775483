//! Loads the two stock modules with Perl, in a separate process and in taint mode, as pvedaemon
//! does, and reports the result.

use super::component::Component;
use super::{ActivationError, Node};
use crate::program::{ProgramError, clean_command, one_line, run_checked};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Time limit. Loading all storage modules of a node takes a few seconds on a slow disk.
const LIMIT: Duration = Duration::from_secs(30);

const SCRIPT: &str = include_str!("probe.pl");

/// The JSON that `probe.pl` writes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ProbeResult {
    tunnel: ModuleStatus,
    storage_tunnel: ModuleStatus,
    /// The versions of pve-tunnel's modules, by name.
    #[serde(default)]
    pub(super) modules: BTreeMap<String, String>,
    /// The version of the library that they have loaded.
    pub(super) library: Option<String>,
}

/// What loading a stock module has shown.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct ModuleStatus {
    /// The file that Perl has loaded; none if it could not load the module.
    pub file: Option<String>,
    /// Why Perl could not load the module.
    pub error: Option<String>,
    /// Whether loading the module also installs the overlay or seam in it.
    pub in_effect: bool,
    /// Why the overlay or seam cannot be installed in it.
    #[serde(default)]
    pub refusal: Option<String>,
}

impl ProbeResult {
    pub(super) fn module(&self, component: Component) -> Option<&ModuleStatus> {
        match component {
            Component::Overlay => Some(&self.tunnel),
            Component::Seam => Some(&self.storage_tunnel),
            Component::Helper => None,
        }
    }
}

pub(super) fn probe(node: &Node) -> Result<ProbeResult, ProgramError> {
    let mut perl = clean_command("perl");
    perl.arg("-T");
    if !node.is_this_machine() {
        perl.arg("-I").arg(node.at("/usr/share/perl5"));
    }
    let answer = run_checked(perl.args(["-e", SCRIPT]), LIMIT)?;
    serde_json::from_str(&answer.stdout).map_err(|cause| ProgramError::InvalidOutput {
        program: "perl".to_owned(),
        cause: format!("{cause}; standard error: {}", one_line(&answer.stderr)),
    })
}

impl ModuleStatus {
    /// Checks that the replacement of the component would work.
    pub(super) fn check(&self, node: &Node, component: Component) -> Result<(), ActivationError> {
        let Some(file) = &self.file else {
            let reason = self.error.clone().unwrap_or_default();
            return Err(ActivationError::NotLoaded { component, reason });
        };
        if *file != node.at(component.path()).to_string_lossy() {
            let file = file.clone();
            return Err(ActivationError::Shadowed { component, file });
        }
        match &self.refusal {
            Some(reason) => Err(ActivationError::Unsupported {
                component,
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }
}
