//! `status`: what is on, whether it works, and whether the running daemons have it.

use super::daemon::{Daemon, daemons};
use super::dpkg::{self, Package};
use super::part::Part;
use super::plan::{Found, Wanted, plan};
use super::probe::{Module, Probe, probe};
use super::{ActivationError, Node};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// All that there is to know. As JSON, its keys are these fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The node as a whole.
    pub state: State,
    /// Each part, in the order of [`Part::ALL`].
    pub parts: Vec<PartStatus>,
    /// Versions of our Perl modules that were loaded, by name, and of the library as `library`.
    pub versions: BTreeMap<String, String>,
    /// Those in whose processes migrations run.
    pub daemons: Vec<Daemon>,
    /// dpkg is running, and the daemons reload at its end: what they have now is not judged.
    pub reload_pending: bool,
    /// What is not in order, and what to do about it; empty if everything is.
    pub problems: Vec<String>,
}

/// What a node is switched to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Everything is stock.
    Off,
    /// Overlay and seam are on.
    On,
    /// The helper alone is on.
    HelperOnly,
    /// Something else, which is a problem.
    Mixed,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartStatus {
    /// Which.
    pub part: Part,
    /// What it is switched to.
    pub state: PartState,
    /// The stock file's path.
    pub path: &'static str,
    /// Its package; none if that is not installed.
    pub package: Option<Package>,
    /// What Perl makes of it; none for the helper, and for a module that is not installed.
    pub module: Option<Module>,
}

/// What a part is switched to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartState {
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
        let mut parts = Vec::new();
        for part in Part::ALL {
            let found = self.find(part)?;
            let (state, problem) = judge(part, &found);
            problems.extend(problem);
            parts.push(PartStatus {
                part,
                state,
                path: part.path(),
                package: dpkg::package(self, part)?,
                module: None,
            });
        }
        let asked = self.ask_perl(&mut parts, &mut problems);
        let mut versions = BTreeMap::new();
        if let Some(asked) = asked {
            versions.extend(asked.modules);
            versions.extend(asked.library.map(|version| ("library".to_owned(), version)));
        }
        let state = State::of(&parts);
        problems.extend(state.problem());
        let daemons = daemons(self);
        if !self.maintainer_script {
            problems.extend(daemons.iter().filter_map(|daemon| daemon.problem(state)));
        }
        Ok(Status {
            state,
            parts,
            versions,
            daemons,
            reload_pending: self.maintainer_script,
            problems,
        })
    }

    /// Only if there is something to ask about.
    fn ask_perl(&self, parts: &mut [PartStatus], problems: &mut Vec<String>) -> Option<Probe> {
        let modules = || Part::ALL.into_iter().filter(|part| part.is_module());
        if !modules().any(|part| self.at(part.path()).exists()) {
            return None;
        }
        let asked = match probe(self) {
            Ok(asked) => asked,
            Err(cause) => {
                problems.push(format!("Perl cannot be asked about the modules: {cause}"));
                return None;
            }
        };
        for each in parts {
            each.module = asked.module(each.part).cloned();
            if each.state == PartState::On {
                problems.extend(each.module_problem(self));
            }
        }
        Some(asked)
    }
}

fn judge(part: Part, found: &Found) -> (PartState, Option<String>) {
    let wanted = match (found.is_on(), found.is_off()) {
        (true, _) => Wanted::On,
        (_, true) => Wanted::Off,
        _ => {
            let advice = match plan(part, found, Wanted::On) {
                Ok(_) => "an interrupted run has left it half-way: run 'pve-tunnel enable' or 'pve-tunnel disable'".to_owned(),
                Err(refusal) => refusal.to_string(),
            };
            return (PartState::Broken, Some(format!("{part}: {advice}")));
        }
    };
    let state = match wanted {
        Wanted::On => PartState::On,
        Wanted::Off => PartState::Off,
    };
    let left = match plan(part, found, wanted) {
        Ok(steps) if steps.is_empty() => None,
        Ok(_) => Some("an interrupted run has left files beside it: run 'pve-tunnel enable' or 'pve-tunnel disable'".to_owned()),
        Err(refusal) => Some(refusal.to_string()),
    };
    (state, left.map(|left| format!("{part}: {left}")))
}

impl PartStatus {
    fn module_problem(&self, node: &Node) -> Option<String> {
        let (part, module) = (self.part, self.module.as_ref()?);
        match module.check(node, part) {
            Err(ActivationError::NotLoaded { reason, .. }) => Some(format!(
                "{part}: Perl cannot load {}: {reason}; install {} again",
                self.path,
                part.package()
            )),
            Err(ActivationError::Shadowed { file, .. }) => Some(format!(
                "{part}: Perl loads {file} in the place of {}: move it away",
                self.path
            )),
            Err(ActivationError::UnknownShape { reason, .. }) => Some(format!(
                "{part}: {reason}; migrations go the stock way until there is a pve-tunnel for it, \
                 and 'pve-tunnel disable' silences this"
            )),
            Err(other) => Some(other.to_string()),
            Ok(()) if module.in_effect => None,
            Ok(()) => Some(format!(
                "{part}: loading {} does not put it into effect: install the package pve-tunnel again",
                self.path
            )),
        }
    }
}

impl State {
    fn of(parts: &[PartStatus]) -> Self {
        let on: Vec<Part> = parts
            .iter()
            .filter(|each| each.state == PartState::On)
            .map(|each| each.part)
            .collect();
        let broken = parts.iter().any(|each| each.state == PartState::Broken);
        match on.as_slice() {
            _ if broken => Self::Mixed,
            [] => Self::Off,
            [Part::Overlay, Part::Seam] => Self::On,
            [Part::Helper] => Self::HelperOnly,
            _ => Self::Mixed,
        }
    }

    fn problem(self) -> Option<String> {
        (self == Self::Mixed).then(|| {
            "the parts do not go together: run 'pve-tunnel enable' or 'pve-tunnel disable'"
                .to_owned()
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::On => "on",
            Self::HelperOnly => "on, helper only",
            Self::Mixed => "neither on nor off",
        })
    }
}

impl Daemon {
    fn problem(&self, state: State) -> Option<String> {
        let Self { name, .. } = self;
        let seen = self.processes - self.unreadable;
        let wrong = match state {
            State::Mixed => None,
            State::On if self.current == seen => None,
            State::On => Some(format!(
                "{} of {seen} processes lack it or have a version that was replaced",
                seen - self.current
            )),
            State::Off | State::HelperOnly if self.current + self.outdated == 0 => None,
            State::Off | State::HelperOnly => Some(format!(
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
        for part in &self.parts {
            writeln!(f, "{part}")?;
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

impl fmt::Display for PartStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            PartState::Off => "off",
            PartState::On => "on",
            PartState::Broken => "broken",
        };
        write!(f, "{:9}  {state:6}  {}", self.part, self.path)?;
        match &self.package {
            Some(package) => write!(f, " of {} {}", package.name, package.version)?,
            None => write!(f, " of {}, which is not installed", self.part.package())?,
        }
        match &self.module {
            None => Ok(()),
            Some(module) if module.in_effect => f.write_str(", in effect"),
            Some(Module {
                error: Some(error), ..
            }) => write!(f, ", does not load: {error}"),
            Some(Module {
                refusal: Some(refusal),
                ..
            }) => write!(f, ", not to be used: {refusal}"),
            Some(_) => f.write_str(", known"),
        }
    }
}

impl fmt::Display for Daemon {
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
