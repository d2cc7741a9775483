//! `enable` and `disable`.

use super::component::Component;
use super::dpkg::{self, Reload};
use super::probe::probe;
use super::program::ProgramError;
use super::status::NodeState;
use super::steps::{DesiredState, Inspection, Step, steps_for};
use super::{ActivationError, Node};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fmt;
use std::fs::File;

/// What is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Overlay and seam; the helper is stock.
    Modules,
    /// The helper; the modules are stock.
    HelperOnly,
}

/// What a run has done.
#[derive(Debug)]
pub struct Report {
    /// What the node is switched to now.
    pub state: NodeState,
    /// The components that were changed.
    pub changes: Vec<Change>,
    /// How the daemons hear of it; none if there is nothing to hear.
    pub reload: Option<Result<Reload, ProgramError>>,
}

/// A component that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub component: Component,
    /// What it was switched to.
    pub to: DesiredState,
    /// How.
    pub steps: Vec<Step>,
}

/// A component with what was found of it and what is to be done.
struct PendingChange {
    change: Change,
    before: Inspection,
}

impl Scope {
    fn desired(self, component: Component) -> DesiredState {
        match (self, component) {
            (Self::Modules, Component::Overlay | Component::Seam) => DesiredState::On,
            (Self::HelperOnly, Component::Helper) => DesiredState::On,
            _ => DesiredState::Off,
        }
    }
}

impl Node {
    /// Switches on what the scope says and the rest off.
    ///
    /// # Errors
    /// The node is as it was, but for [`ActivationError::RollbackFailed`].
    pub fn enable(&self, scope: Scope) -> Result<Report, ActivationError> {
        let _lock = self.lock()?;
        let pending = self.pending_changes(|component| scope.desired(component))?;
        self.check_modules(&pending)?;
        for (count, each) in pending.iter().enumerate() {
            if let Err(cause) = self.take_steps(&each.change) {
                return Err(self.undo(&pending[..=count], cause));
            }
        }
        let state = match scope {
            Scope::Modules => NodeState::On,
            Scope::HelperOnly => NodeState::HelperOnly,
        };
        Ok(self.report(state, pending))
    }

    /// Switches everything off. Asks nothing of Perl, and needs neither the stock packages nor the
    /// stand-ins.
    ///
    /// # Errors
    /// If it is refused, nothing was changed. If a component fails, the others are switched off
    /// nevertheless: that is nearer to what was asked for.
    pub fn disable(&self) -> Result<Report, ActivationError> {
        let _lock = self.lock()?;
        let pending = self.pending_changes(|_| DesiredState::Off)?;
        let mut failed = None;
        for each in &pending {
            if let Err(cause) = self.take_steps(&each.change) {
                failed.get_or_insert(cause);
            }
        }
        let report = self.report(NodeState::Off, pending);
        match failed {
            Some(cause) => Err(cause),
            None => Ok(report),
        }
    }

    /// Held until it is dropped, or this process has ended. Of a directory that is there always and
    /// that nobody else locks, so that no file of ours stays.
    fn lock(&self) -> Result<Flock<File>, ActivationError> {
        if self.is_this_machine() && !nix::unistd::geteuid().is_root() {
            return Err(ActivationError::NotRoot);
        }
        let path = self.at("/usr");
        let directory = File::open(&path).map_err(|cause| ActivationError::Lock {
            path: path.clone(),
            cause,
        })?;
        Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => ActivationError::Busy,
            errno => ActivationError::Lock {
                path,
                cause: errno.into(),
            },
        })
    }

    /// All components are looked at before the first is changed.
    fn pending_changes(
        &self,
        desired: impl Fn(Component) -> DesiredState,
    ) -> Result<Vec<PendingChange>, ActivationError> {
        let mut pending = Vec::new();
        for component in Component::ALL {
            let to = desired(component);
            let before = self.inspect(component)?;
            let steps =
                steps_for(component, &before, to).map_err(|refusal| ActivationError::Refused {
                    component,
                    to: to.name(),
                    refusal,
                })?;
            if !steps.is_empty() {
                let change = Change {
                    component,
                    to,
                    steps,
                };
                pending.push(PendingChange { change, before });
            }
        }
        Ok(pending)
    }

    /// Nothing is diverted that Perl would then not load, or that our modules would refuse.
    fn check_modules(&self, pending: &[PendingChange]) -> Result<(), ActivationError> {
        let modules: Vec<Component> = pending
            .iter()
            .filter(|each| each.change.to == DesiredState::On && each.change.component.is_module())
            .map(|each| each.change.component)
            .collect();
        if modules.is_empty() {
            return Ok(());
        }
        let probe = probe(self)?;
        modules
            .into_iter()
            .filter_map(|component| Some((component, probe.module(component)?)))
            .try_for_each(|(component, module)| module.check(self, component))
    }

    fn take_steps(&self, change: &Change) -> Result<(), ActivationError> {
        change
            .steps
            .iter()
            .try_for_each(|step| self.perform(change.component, *step))
    }

    /// The way back is pending from what is found, like every other.
    fn undo(&self, changed: &[PendingChange], cause: ActivationError) -> ActivationError {
        let cause = Box::new(cause);
        for each in changed.iter().rev() {
            let component = each.change.component;
            let to = if each.before.is_on() {
                DesiredState::On
            } else {
                DesiredState::Off
            };
            let undone = self.inspect(component).and_then(|found| {
                if found == each.before {
                    return Ok(());
                }
                let steps = steps_for(component, &found, to).map_err(|refusal| {
                    ActivationError::Refused {
                        component,
                        to: to.name(),
                        refusal,
                    }
                })?;
                self.take_steps(&Change {
                    component,
                    to,
                    steps,
                })
            });
            if let Err(undo) = undone {
                let undo = Box::new(undo);
                return ActivationError::RollbackFailed { cause, undo };
            }
        }
        ActivationError::RolledBack { cause }
    }

    /// The daemons hear of it whatever happens then: the state holds.
    fn report(&self, state: NodeState, pending: Vec<PendingChange>) -> Report {
        let changes: Vec<Change> = pending.into_iter().map(|each| each.change).collect();
        let heard = changes.iter().any(|change| change.component.is_module());
        Report {
            state,
            reload: heard.then(|| dpkg::reload(self)),
            changes,
        }
    }
}

impl DesiredState {
    fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// For people: a line for each change, and one for what the daemons hear.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changes.is_empty() {
            return writeln!(f, "nothing to change: pve-tunnel is {}", self.state);
        }
        for Change { component, to, .. } in &self.changes {
            let path = component.path();
            match to {
                DesiredState::On => writeln!(
                    f,
                    "{component}: on; {path} is a link to {}, and the stock file is {}",
                    component.replacement(),
                    component.distrib()
                )?,
                DesiredState::Off => writeln!(f, "{component}: off; {path} is the stock file")?,
            }
        }
        match &self.reload {
            None | Some(Err(_)) => Ok(()),
            Some(Ok(Reload::Done)) => {
                writeln!(f, "daemons: reloaded by the trigger pve-api-updates")
            }
            Some(Ok(Reload::Deferred)) => {
                writeln!(f, "daemons: reload when the dpkg that is running ends")
            }
        }
    }
}
