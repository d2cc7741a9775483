//! `status`: what is on, whether it works, and whether the running daemons have it.

use super::component::Component;
use super::daemon::{DaemonStatus, daemons};
use super::dpkg::{self, Package};
use super::probe::{ModuleStatus, ProbeResult, probe};
use super::steps::{DesiredState, Inspection, steps_for};
use super::{ActivationError, Node};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// All that there is to know. As JSON, its keys are these fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The node as a whole.
    pub state: NodeState,
    /// Each component, in the order of [`Component::ALL`].
    #[serde(rename = "parts")]
    pub components: Vec<ComponentStatus>,
    /// Versions of our Perl modules that were loaded, by name, and of the library as `library`.
    pub versions: BTreeMap<String, String>,
    /// Those in whose processes migrations run.
    pub daemons: Vec<DaemonStatus>,
    /// dpkg is running, and the daemons reload at its end: what they have now is not judged.
    pub reload_pending: bool,
    /// What is not in order, and what to do about it; empty if everything is.
    pub problems: Vec<String>,
}

/// What a node is switched to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Everything is stock.
    Off,
    /// Overlay and seam are on.
    On,
    /// The helper alone is on.
    HelperOnly,
    /// Something else, which is a problem.
    Mixed,
}

/// One component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentStatus {
    /// Which.
    #[serde(rename = "part")]
    pub component: Component,
    /// What it is switched to.
    pub state: ComponentState,
    /// The stock file's path.
    pub path: &'static str,
    /// Its package; none if that is not installed.
    pub package: Option<Package>,
    /// What Perl makes of it; none for the helper, and for a module that is not installed.
    pub module: Option<ModuleStatus>,
}

/// What a component is switched to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComponentState {
    /// The stock file.
    Off,
    /// The stand-in.
    On,
    /// Something between, or in the way.
    Broken,
}

impl Node {
    /// How things are. Changes nothing.
    ///
    /// # Errors
    /// Files and dpkg cannot be asked. That Perl cannot be is one of the problems.
    pub fn status(&self) -> Result<Status, ActivationError> {
        let mut problems = Vec::new();
        let mut components = Vec::new();
        for component in Component::ALL {
            let found = self.inspect(component)?;
            let (state, problem) = judge(component, &found);
            problems.extend(problem);
            components.push(ComponentStatus {
                component,
                state,
                path: component.path(),
                package: dpkg::package(self, component)?,
                module: None,
            });
        }
        let asked = self.ask_perl(&mut components, &mut problems);
        let mut versions = BTreeMap::new();
        if let Some(asked) = asked {
            versions.extend(asked.modules);
            versions.extend(asked.library.map(|version| ("library".to_owned(), version)));
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
            problems,
        })
    }

    /// Only if there is something to ask about.
    fn ask_perl(
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
        let asked = match probe(self) {
            Ok(asked) => asked,
            Err(cause) => {
                problems.push(format!("Perl cannot be asked about the modules: {cause}"));
                return None;
            }
        };
        for each in components {
            each.module = asked.module(each.component).cloned();
            if each.state == ComponentState::On {
                problems.extend(each.module_problem(self));
            }
        }
        Some(asked)
    }
}

fn judge(component: Component, found: &Inspection) -> (ComponentState, Option<String>) {
    let desired = match (found.is_on(), found.is_off()) {
        (true, _) => DesiredState::On,
        (_, true) => DesiredState::Off,
        _ => {
            let advice = match steps_for(component, found, DesiredState::On) {
                Ok(_) => "an interrupted run has left it half-way: run 'pve-tunnel enable' or 'pve-tunnel disable'".to_owned(),
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
        Ok(_) => Some("an interrupted run has left files beside it: run 'pve-tunnel enable' or 'pve-tunnel disable'".to_owned()),
        Err(refusal) => Some(refusal.to_string()),
    };
    (state, left.map(|left| format!("{component}: {left}")))
}

impl ComponentStatus {
    fn module_problem(&self, node: &Node) -> Option<String> {
        let (component, module) = (self.component, self.module.as_ref()?);
        match module.check(node, component) {
            Err(ActivationError::NotLoaded { reason, .. }) => Some(format!(
                "{component}: Perl cannot load {}: {reason}; install {} again",
                self.path,
                component.package()
            )),
            Err(ActivationError::Shadowed { file, .. }) => Some(format!(
                "{component}: Perl loads {file} in the place of {}: move it away",
                self.path
            )),
            Err(ActivationError::Unsupported { reason, .. }) => Some(format!(
                "{component}: {reason}; migrations go the stock way until there is a pve-tunnel for it, \
                 and 'pve-tunnel disable' silences this"
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
            "the components do not go together: run 'pve-tunnel enable' or 'pve-tunnel disable'"
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
        let seen = self.processes - self.unreadable;
        let wrong = match state {
            NodeState::Mixed => None,
            NodeState::On if self.current == seen => None,
            NodeState::On => Some(format!(
                "{} of {seen} processes lack it or have a version that was replaced",
                seen - self.current
            )),
            NodeState::Off | NodeState::HelperOnly if self.current + self.outdated == 0 => None,
            NodeState::Off | NodeState::HelperOnly => Some(format!(
                "{} of {seen} processes still have it",
                self.current + self.outdated
            )),
        };
        wrong.map(|wrong| {
            format!(
                "{name}: {wrong}: run 'systemctl reload {name}'; a worker that is busy ends later"
            )
        })
    }
}

/// For people.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pve-tunnel is {}", self.state)?;
        for component in &self.components {
            writeln!(f, "{component}")?;
        }
        for daemon in &self.daemons {
            writeln!(f, "{daemon}")?;
        }
        if self.reload_pending {
            writeln!(f, "daemons reload when the dpkg that is running ends")?;
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
            }) => write!(f, ", not to be used: {refusal}"),
            Some(_) => f.write_str(", known"),
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
            "{} of {} processes have it",
            self.current, self.processes
        )?;
        if self.outdated > 0 {
            write!(f, ", {} a version that was replaced", self.outdated)?;
        }
        if self.unreadable > 0 {
            write!(f, ", {} can only be looked into by root", self.unreadable)?;
        }
        Ok(())
    }
}
