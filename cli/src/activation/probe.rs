//! What Perl itself makes of the two modules: asked in a process of its own, under taint, as
//! pvedaemon loads them.

use super::component::Component;
use super::program::{ProgramError, command, one_line, run_checked};
use super::{ActivationError, Node};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Loading all modules of a node's storages takes a few seconds on a slow disk, not more.
const LIMIT: Duration = Duration::from_secs(30);

const SCRIPT: &str = include_str!("probe.pl");

/// Perl's answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ProbeResult {
    tunnel: ModuleStatus,
    storage_tunnel: ModuleStatus,
    /// The versions of our modules, by name.
    #[serde(default)]
    pub(super) modules: BTreeMap<String, String>,
    /// The version of the library under them.
    pub(super) library: Option<String>,
}

/// A stock module.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct ModuleStatus {
    /// Where Perl has loaded it from; none if it has not.
    pub file: Option<String>,
    /// Why it has not.
    pub error: Option<String>,
    /// By loading it alone, our functions are in it.
    pub in_effect: bool,
    /// Why they cannot be, or cannot be put there.
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
    let mut perl = command("perl");
    perl.arg("-T");
    if !node.is_this_machine() {
        perl.arg("-I").arg(node.at("/usr/share/perl5"));
    }
    let asked = run_checked(perl.args(["-e", SCRIPT]), LIMIT)?;
    serde_json::from_str(&asked.stdout).map_err(|cause| ProgramError::Answer {
        program: "perl".to_owned(),
        cause: format!("{cause}; it said: {}", one_line(&asked.stderr)),
    })
}

impl ModuleStatus {
    /// Whether a stand-in would do what it is for.
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
