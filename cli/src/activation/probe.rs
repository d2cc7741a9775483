//! What Perl itself makes of the two modules: asked in a process of its own, under taint, as
//! pvedaemon loads them.

use super::part::Part;
use super::run::{RunError, command, one_line, succeed};
use super::{ActivationError, Node};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Loading all modules of a node's storages takes a few seconds on a slow disk, not more.
const LIMIT: Duration = Duration::from_secs(30);

const SCRIPT: &str = include_str!("probe.pl");

/// Perl's answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Probe {
    tunnel: Module,
    storage_tunnel: Module,
    /// The versions of our modules, by name.
    #[serde(default)]
    pub(super) modules: BTreeMap<String, String>,
    /// The version of the library under them.
    pub(super) library: Option<String>,
}

/// A stock module.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Module {
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

impl Probe {
    pub(super) fn module(&self, part: Part) -> Option<&Module> {
        match part {
            Part::Overlay => Some(&self.tunnel),
            Part::Seam => Some(&self.storage_tunnel),
            Part::Helper => None,
        }
    }
}

pub(super) fn probe(node: &Node) -> Result<Probe, RunError> {
    let mut perl = command("perl");
    perl.arg("-T");
    if !node.is_this_machine() {
        perl.arg("-I").arg(node.at("/usr/share/perl5"));
    }
    let asked = succeed(perl.args(["-e", SCRIPT]), LIMIT)?;
    serde_json::from_str(&asked.stdout).map_err(|cause| RunError::Answer {
        program: "perl".to_owned(),
        cause: format!("{cause}; it said: {}", one_line(&asked.stderr)),
    })
}

impl Module {
    /// Whether a stand-in would do what it is for.
    pub(super) fn check(&self, node: &Node, part: Part) -> Result<(), ActivationError> {
        let Some(file) = &self.file else {
            let reason = self.error.clone().unwrap_or_default();
            return Err(ActivationError::NotLoaded { part, reason });
        };
        if *file != node.at(part.path()).to_string_lossy() {
            let file = file.clone();
            return Err(ActivationError::Shadowed { part, file });
        }
        match &self.refusal {
            Some(reason) => Err(ActivationError::UnknownShape {
                part,
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }
}
