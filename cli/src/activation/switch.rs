//! `enable` and `disable`.

use super::component::Component;
use super::daemon;
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

/// Which components `enable` switches on. It switches the others off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Overlay and seam. The helper is stock.
    Modules,
    /// The helper. The modules are stock.
    HelperOnly,
}

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    /// The state of the node after the run.
    pub state: NodeState,
    /// The components that were changed.
    pub changes: Vec<Change>,
    /// How the daemons reload; none if no module was changed.
    pub reload: Option<Result<Reload, ProgramError>>,
    /// Whether a daemon is running that has to reload.
    pub daemon_is_running: bool,
}

/// The change of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The component.
    pub component: Component,
    /// Its new state.
    pub to: DesiredState,
    /// Whether the stock file exists. Its package may have been removed while the component was on.
    pub has_stock: bool,
    /// The steps to the new state.
    pub steps: Vec<Step>,
}

/// A change that is still to be made, with the state from which it starts.
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
    /// Switches the components of the scope on and the others off.
    ///
    /// # Errors
    /// After every error but [`ActivationError::RollbackFailed`], the node is in the same state as
    /// before.
    pub fn enable(&self, scope: Scope) -> Result<Report, ActivationError> {
        let _lock = self.lock()?;
        let pending = self.pending_changes(|component| scope.desired(component))?;
        self.check_modules(&pending)?;
        for (count, each) in pending.iter().enumerate() {
            if let Err(cause) = self.perform_all(&each.change) {
                return Err(self.roll_back(&pending[..=count], cause));
            }
        }
        let state = match scope {
            Scope::Modules => NodeState::On,
            Scope::HelperOnly => NodeState::HelperOnly,
        };
        Ok(self.report(state, pending))
    }

    /// Switches every component off. Does not run Perl, and requires neither the stock packages nor
    /// the replacements.
    ///
    /// # Errors
    /// If a component is refused, nothing was changed. If a step of a component fails, the other
    /// components are switched off all the same, because this is closer to the request.
    pub fn disable(&self) -> Result<Report, ActivationError> {
        let _lock = self.lock()?;
        let pending = self.pending_changes(|_| DesiredState::Off)?;
        let mut failed = None;
        for each in &pending {
            if let Err(cause) = self.perform_all(&each.change) {
                failed.get_or_insert(cause);
            }
        }
        let report = self.report(NodeState::Off, pending);
        match failed {
            Some(cause) => Err(cause),
            None => Ok(report),
        }
    }

    /// Locks `/usr` until the result is dropped or this process ends. This directory always exists
    /// and no other program locks it, so that no lock file has to be created and removed.
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

    /// Inspects every component before the first is changed.
    fn pending_changes(
        &self,
        desired: impl Fn(Component) -> DesiredState,
    ) -> Result<Vec<PendingChange>, ActivationError> {
        let mut pending = Vec::new();
        for component in Component::ALL {
            let to = desired(component);
            let before = self.inspect(component)?;
            let change = change(component, &before, to)?;
            if !change.steps.is_empty() {
                pending.push(PendingChange { change, before });
            }
        }
        Ok(pending)
    }

    /// Checks that Perl can load the modules that are about to be diverted, and that overlay and
    /// seam support them.
    fn check_modules(&self, pending: &[PendingChange]) -> Result<(), ActivationError> {
        let modules: Vec<Component> = pending
            .iter()
            .filter(|each| each.change.to == DesiredState::On && each.change.component.is_module())
            .map(|each| each.change.component)
            .collect();
        if modules.is_empty() {
            return Ok(());
        }
        let probed = probe(self)?;
        modules
            .into_iter()
            .filter_map(|component| Some((component, probed.module(component)?)))
            .try_for_each(|(component, module)| module.check(self, component))
    }

    fn perform_all(&self, change: &Change) -> Result<(), ActivationError> {
        change
            .steps
            .iter()
            .try_for_each(|step| self.perform(change.component, *step))
    }

    /// Inspects each component again, because only some of its steps may have been performed, and
    /// switches it back.
    fn roll_back(&self, changed: &[PendingChange], cause: ActivationError) -> ActivationError {
        let cause = Box::new(cause);
        for each in changed.iter().rev() {
            let component = each.change.component;
            let to = if each.before.is_on() {
                DesiredState::On
            } else {
                DesiredState::Off
            };
            let undone = self.inspect(component).and_then(|now| {
                if now == each.before {
                    return Ok(());
                }
                self.perform_all(&change(component, &now, to)?)
            });
            if let Err(rollback) = undone {
                let rollback = Box::new(rollback);
                return ActivationError::RollbackFailed { cause, rollback };
            }
        }
        ActivationError::RolledBack { cause }
    }

    /// Reloads the daemons if necessary. An error of this is part of the report: the components are
    /// switched all the same.
    fn report(&self, state: NodeState, performed: Vec<PendingChange>) -> Report {
        let changes: Vec<Change> = performed.into_iter().map(|each| each.change).collect();
        let has_modules = changes.iter().any(|change| change.component.is_module());
        Report {
            state,
            reload: has_modules.then(|| dpkg::reload(self)),
            daemon_is_running: daemon::any_is_running(self),
            changes,
        }
    }
}

fn change(
    component: Component,
    found: &Inspection,
    to: DesiredState,
) -> Result<Change, ActivationError> {
    match steps_for(component, found, to) {
        Ok(steps) => Ok(Change {
            component,
            to,
            has_stock: found.has_stock(),
            steps,
        }),
        Err(refusal) => Err(ActivationError::Refused {
            component,
            to: to.name(),
            refusal,
        }),
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

/// A line for each change, and a line about the daemons.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changes.is_empty() {
            return writeln!(f, "nothing to change: pve-tunnel is {}", self.state);
        }
        for change in &self.changes {
            let Change { component, to, .. } = change;
            let path = component.path();
            match to {
                DesiredState::On => writeln!(
                    f,
                    "{component}: on; {path} is a link to {}, and the stock file is {}",
                    component.replacement(),
                    component.distrib()
                )?,
                DesiredState::Off if change.has_stock => {
                    writeln!(f, "{component}: off; {path} is the stock file")?;
                }
                DesiredState::Off => writeln!(
                    f,
                    "{component}: off; {path} of {} is not installed",
                    component.package()
                )?,
            }
        }
        match &self.reload {
            None | Some(Err(_)) => Ok(()),
            Some(Ok(Reload::Done)) if !self.daemon_is_running => writeln!(
                f,
                "daemons: none to reload, because pvedaemon is not running"
            ),
            Some(Ok(Reload::Done)) => {
                writeln!(f, "daemons: reloaded by the trigger pve-api-updates")
            }
            Some(Ok(Reload::Deferred)) => {
                writeln!(f, "daemons: reload when the running dpkg ends")
            }
        }
    }
}
