//! `status`: which components are on, whether they work, and whether the running daemons have
//! loaded them.

use super::component::Component;
use super::daemon::{DaemonStatus, daemons};
use super::dpkg::{self, Package};
use super::probe::{ModuleStatus, ProbeResult, probe};
use super::steps::{DesiredState, Inspection, steps_for};
use super::{ActivationError, Node};
use crate::configuration_file;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The status of a node, which `status --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The state of the node as a whole.
    pub state: NodeState,
    /// Each component, in the order of [`Component::ALL`].
    #[serde(rename = "parts")]
    pub components: Vec<ComponentStatus>,
    /// Versions of pve-tunnel's Perl modules that were loaded, by name, and of the library, as
    /// `library`.
    pub versions: BTreeMap<String, String>,
    /// The daemons whose processes run migrations.
    pub daemons: Vec<DaemonStatus>,
    /// Whether dpkg is running and the daemons reload when it ends. The libraries that they have
    /// loaded now are then not a problem.
    pub reload_pending: bool,
    /// Whether this is a node of Proxmox VE: the stock modules, or their package, are installed.
    pub proxmox_ve: bool,
    /// What is wrong, and how to fix it; empty if nothing is wrong.
    pub problems: Vec<String>,
}

/// The state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Every component is off.
    Off,
    /// Overlay and seam are on, and the helper is off.
    On,
    /// Only the helper is on.
    HelperOnly,
    /// Another combination, or a broken component. This is a problem.
    Mixed,
}

/// The status of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentStatus {
    /// The component.
    #[serde(rename = "part")]
    pub component: Component,
    /// Its state.
    pub state: ComponentState,
    /// The path of the stock file.
    pub path: &'static str,
    /// The package that contains the stock file; none if that is not installed.
    pub package: Option<Package>,
    /// What loading the module has shown; none for the helper, and if no module is installed.
    pub module: Option<ModuleStatus>,
}

/// The state of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComponentState {
    /// The stock file is in use.
    Off,
    /// The replacement is in use.
    On,
    /// Neither: a run was interrupted, or other files or diversions are in conflict.
    Broken,
}

impl Node {
    /// Determines the status of the node. Changes nothing.
    ///
    /// # Errors
    /// A file cannot be inspected, or a program of dpkg fails. A failure of Perl is not an error but
    /// one of the problems.
    pub fn status(&self) -> Result<Status, ActivationError> {
        let mut status = self.activation_status()?;
        status.problems.extend(self.configuration_problem());
        Ok(status)
    }

    /// As [`Self::status`], without the configuration.
    pub(crate) fn activation_status(&self) -> Result<Status, ActivationError> {
        let mut problems = Vec::new();
        let mut components = Vec::new();
        let mut proxmox_ve = false;
        for component in Component::ALL {
            let found = self.inspect(component)?;
            let (state, problem) = judge(component, &found);
            problems.extend(problem);
            let package = dpkg::package(self, component)?;
            proxmox_ve |= component.is_module() && (package.is_some() || found.has_stock());
            components.push(ComponentStatus {
                component,
                state,
                path: component.path(),
                package,
                module: None,
            });
        }
        let probed = self.probe_modules(&mut components, &mut problems);
        let mut versions = BTreeMap::new();
        if let Some(probed) = probed {
            versions.extend(probed.modules);
            versions.extend(
                probed
                    .library
                    .map(|version| ("library".to_owned(), version)),
            );
        }
        let state = NodeState::of(&components);
        problems.extend(state.problem());
        let daemons = daemons(self);
        if !self.maintainer_script {
            problems.extend(daemons.iter().filter_map(|daemon| daemon.problem(state)));
        }
        Ok(Status {
            state,
            components,
            versions,
            daemons,
            reload_pending: self.maintainer_script,
            proxmox_ve,
            problems,
        })
    }

    /// The path of the configuration of migrations to other clusters.
    pub(crate) fn configuration_path(&self) -> PathBuf {
        self.at(configuration_file::PATH)
    }

    /// What is wrong with this configuration.
    pub(crate) fn configuration_problem(&self) -> Option<String> {
        let read = configuration_file::read(&self.configuration_path());
        let refused = "no migration to another cluster starts until it is corrected";
        match read.err()? {
            error @ configuration_file::FileError::Read { .. } => {
                Some(format!("{error}; {refused}"))
            }
            error @ configuration_file::FileError::Invalid { .. } => Some(format!(
                "{error}; {refused}; 'pve-tunnel config' checks the file"
            )),
        }
    }

    /// Loads the modules, if at least one is installed.
    fn probe_modules(
        &self,
        components: &mut [ComponentStatus],
        problems: &mut Vec<String>,
    ) -> Option<ProbeResult> {
        let modules = || {
            Component::ALL
                .into_iter()
                .filter(|component| component.is_module())
        };
        if !modules().any(|component| self.at(component.path()).exists()) {
            return None;
        }
        let probed = match probe(self) {
            Ok(probed) => probed,
            Err(cause) => {
                problems.push(format!("the modules cannot be checked with Perl: {cause}"));
                return None;
            }
        };
        for each in components {
            each.module = probed.module(each.component).cloned();
            if each.state == ComponentState::On {
                problems.extend(each.module_problem(self));
            }
        }
        Some(probed)
    }
}

/// Returns the state of a component and, if something is wrong with it, the problem.
fn judge(component: Component, found: &Inspection) -> (ComponentState, Option<String>) {
    let desired = match (found.is_on(), found.is_off()) {
        (true, _) => DesiredState::On,
        (_, true) => DesiredState::Off,
        _ => {
            let advice = match steps_for(component, found, DesiredState::On) {
                Ok(_) => "an interrupted run left it incomplete: run 'pve-tunnel enable' or 'pve-tunnel disable'".to_owned(),
                Err(refusal) => refusal.to_string(),
            };
            return (
                ComponentState::Broken,
                Some(format!("{component}: {advice}")),
            );
        }
    };
    let state = match desired {
        DesiredState::On => ComponentState::On,
        DesiredState::Off => ComponentState::Off,
    };
    let left = match steps_for(component, found, desired) {
        Ok(steps) if steps.is_empty() => None,
        Ok(_) => Some("an interrupted run left files beside it: run 'pve-tunnel enable' or 'pve-tunnel disable'".to_owned()),
        Err(refusal) => Some(refusal.to_string()),
    };
    (state, left.map(|left| format!("{component}: {left}")))
}

impl ComponentStatus {
    fn module_problem(&self, node: &Node) -> Option<String> {
        let (component, module) = (self.component, self.module.as_ref()?);
        match module.check(node, component) {
            Err(ActivationError::NotLoaded { reason, .. }) => Some(format!(
                "{component}: Perl cannot load {}: {reason}; install {} again, or a newer version of it",
                self.path,
                component.package()
            )),
            Err(ActivationError::Shadowed { file, .. }) => Some(format!(
                "{component}: Perl loads {file} instead of {}: move {file} away",
                self.path
            )),
            Err(ActivationError::Unsupported { reason, .. }) => Some(format!(
                "{component}: {reason}; migrations use the stock tunnel until a version of pve-tunnel \
                 that supports it is installed; 'pve-tunnel disable' removes this message"
            )),
            Err(other) => Some(other.to_string()),
            Ok(()) if module.in_effect => None,
            Ok(()) => Some(format!(
                "{component}: loading {} does not put it into effect: install the package pve-tunnel again",
                self.path
            )),
        }
    }
}

impl NodeState {
    fn of(components: &[ComponentStatus]) -> Self {
        let on: Vec<Component> = components
            .iter()
            .filter(|each| each.state == ComponentState::On)
            .map(|each| each.component)
            .collect();
        let broken = components
            .iter()
            .any(|each| each.state == ComponentState::Broken);
        match on.as_slice() {
            _ if broken => Self::Mixed,
            [] => Self::Off,
            [Component::Overlay, Component::Seam] => Self::On,
            [Component::Helper] => Self::HelperOnly,
            _ => Self::Mixed,
        }
    }

    fn problem(self) -> Option<String> {
        (self == Self::Mixed).then(|| {
            "the states of the components do not match: run 'pve-tunnel enable' or 'pve-tunnel disable'"
                .to_owned()
        })
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::On => "on",
            Self::HelperOnly => "on, helper only",
            Self::Mixed => "neither on nor off",
        })
    }
}

impl DaemonStatus {
    fn problem(&self, state: NodeState) -> Option<String> {
        let Self { name, .. } = self;
        let readable = self.processes - self.unreadable;
        let problem = match state {
            NodeState::Mixed => None,
            NodeState::On if self.current == readable => None,
            NodeState::On => Some(format!(
                "{} of {readable} processes have not loaded pve-tunnel's library, or have loaded a version that was replaced",
                readable - self.current
            )),
            NodeState::Off | NodeState::HelperOnly if self.current + self.outdated == 0 => None,
            NodeState::Off | NodeState::HelperOnly => Some(format!(
                "{} of {readable} processes still have pve-tunnel's library loaded",
                self.current + self.outdated
            )),
        };
        problem.map(|problem| {
            format!("{name}: {problem}: run 'systemctl reload {name}'; a busy worker ends later")
        })
    }
}

impl Status {
    /// The migrations that use the stock tunnel although the component is on: the module that Perl
    /// loads is not in effect.
    fn stock_directions(&self) -> Option<&'static str> {
        let is_stock = |component: Component| {
            self.components.iter().any(|each| {
                let module = each.module.as_ref().filter(|_| each.component == component);
                let loaded = module.filter(|module| module.file.is_some());
                loaded.is_some_and(|module| !module.in_effect)
            })
        };
        match (is_stock(Component::Overlay), is_stock(Component::Seam)) {
            (true, true) => Some("from and to"),
            (true, false) => Some("from"),
            (false, true) => Some("to"),
            (false, false) => None,
        }
    }
}

/// The text that `status` prints without `--json`.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pve-tunnel is {}", self.state)?;
        match (self.state, self.stock_directions()) {
            (NodeState::Off, _) if !self.proxmox_ve => writeln!(
                f,
                ": this is not a Proxmox VE node ({} is not installed)",
                Component::Overlay.package()
            )?,
            (NodeState::On, Some(directions)) => {
                writeln!(
                    f,
                    ", but migrations {directions} this node use the stock tunnel"
                )?;
            }
            _ => writeln!(f)?,
        }
        for component in &self.components {
            writeln!(f, "{component}")?;
        }
        for daemon in &self.daemons {
            writeln!(f, "{daemon}")?;
        }
        if self.reload_pending {
            writeln!(f, "daemons reload when the running dpkg ends")?;
        }
        for problem in &self.problems {
            writeln!(f, "PROBLEM: {problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ComponentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            ComponentState::Off => "off",
            ComponentState::On => "on",
            ComponentState::Broken => "broken",
        };
        write!(f, "{:9}  {state:6}  {}", self.component, self.path)?;
        match &self.package {
            Some(package) => write!(f, " of {} {}", package.name, package.version)?,
            None => write!(
                f,
                " of {}, which is not installed",
                self.component.package()
            )?,
        }
        match &self.module {
            None => Ok(()),
            Some(module) if module.in_effect => f.write_str(", in effect"),
            Some(ModuleStatus {
                error: Some(error), ..
            }) => write!(f, ", does not load: {error}"),
            Some(ModuleStatus {
                refusal: Some(refusal),
                ..
            }) => write!(f, ", not supported: {refusal}"),
            Some(_) => f.write_str(", supported"),
        }
    }
}

impl fmt::Display for DaemonStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9}  ", self.name)?;
        if self.pid.is_none() {
            return f.write_str("not running");
        }
        write!(
            f,
            "{} of {} processes have loaded the library",
            self.current, self.processes
        )?;
        if self.outdated > 0 {
            write!(f, ", replaced version: {}", self.outdated)?;
        }
        if self.unreadable > 0 {
            write!(f, ", readable only by root: {}", self.unreadable)?;
        }
        Ok(())
    }
}
