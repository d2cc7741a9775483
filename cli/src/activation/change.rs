//! `enable` and `disable`.

use super::dpkg::{self, Reload};
use super::part::Part;
use super::plan::{Found, Step, Wanted, plan};
use super::probe::probe;
use super::run::RunError;
use super::status::State;
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
    pub state: State,
    /// The parts that were changed.
    pub changes: Vec<Change>,
    /// How the daemons hear of it; none if there is nothing to hear.
    pub reload: Option<Result<Reload, RunError>>,
}

/// A part that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub part: Part,
    /// What it was switched to.
    pub to: Wanted,
    /// How.
    pub steps: Vec<Step>,
}

/// A part with what was found of it and what is to be done.
struct Planned {
    change: Change,
    before: Found,
}

impl Scope {
    fn wanted(self, part: Part) -> Wanted {
        match (self, part) {
            (Self::Modules, Part::Overlay | Part::Seam) => Wanted::On,
            (Self::HelperOnly, Part::Helper) => Wanted::On,
            _ => Wanted::Off,
        }
    }
}

impl Node {
    /// Switches on what the scope says and the rest off.
    ///
    /// # Errors
    /// The node is as it was, but for [`ActivationError::Stuck`].
    pub fn enable(&self, scope: Scope) -> Result<Report, ActivationError> {
        let _lock = self.lock()?;
        let planned = self.plan_all(|part| scope.wanted(part))?;
        self.check_modules(&planned)?;
        for (count, each) in planned.iter().enumerate() {
            if let Err(cause) = self.take_steps(&each.change) {
                return Err(self.undo(&planned[..=count], cause));
            }
        }
        let state = match scope {
            Scope::Modules => State::On,
            Scope::HelperOnly => State::HelperOnly,
        };
        Ok(self.report(state, planned))
    }

    /// Switches everything off. Asks nothing of Perl, and needs neither the stock packages nor the
    /// stand-ins.
    ///
    /// # Errors
    /// If it is refused, nothing was changed. If a part fails, the others are switched off
    /// nevertheless: that is nearer to what was asked for.
    pub fn disable(&self) -> Result<Report, ActivationError> {
        let _lock = self.lock()?;
        let planned = self.plan_all(|_| Wanted::Off)?;
        let mut failed = None;
        for each in &planned {
            if let Err(cause) = self.take_steps(&each.change) {
                failed.get_or_insert(cause);
            }
        }
        let report = self.report(State::Off, planned);
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

    /// All parts are looked at before the first is changed.
    fn plan_all(&self, wanted: impl Fn(Part) -> Wanted) -> Result<Vec<Planned>, ActivationError> {
        let mut planned = Vec::new();
        for part in Part::ALL {
            let to = wanted(part);
            let before = self.find(part)?;
            let steps = plan(part, &before, to).map_err(|refusal| ActivationError::Refused {
                part,
                to: to.name(),
                refusal,
            })?;
            if !steps.is_empty() {
                let change = Change { part, to, steps };
                planned.push(Planned { change, before });
            }
        }
        Ok(planned)
    }

    /// Nothing is diverted that Perl would then not load, or that our modules would refuse.
    fn check_modules(&self, planned: &[Planned]) -> Result<(), ActivationError> {
        let modules: Vec<Part> = planned
            .iter()
            .filter(|each| each.change.to == Wanted::On && each.change.part.is_module())
            .map(|each| each.change.part)
            .collect();
        if modules.is_empty() {
            return Ok(());
        }
        let probe = probe(self)?;
        modules
            .into_iter()
            .filter_map(|part| Some((part, probe.module(part)?)))
            .try_for_each(|(part, module)| module.check(self, part))
    }

    fn take_steps(&self, change: &Change) -> Result<(), ActivationError> {
        change
            .steps
            .iter()
            .try_for_each(|step| self.perform(change.part, *step))
    }

    /// The way back is planned from what is found, like every other.
    fn undo(&self, changed: &[Planned], cause: ActivationError) -> ActivationError {
        let cause = Box::new(cause);
        for each in changed.iter().rev() {
            let part = each.change.part;
            let to = if each.before.is_on() {
                Wanted::On
            } else {
                Wanted::Off
            };
            let undone = self.find(part).and_then(|found| {
                if found == each.before {
                    return Ok(());
                }
                let steps = plan(part, &found, to).map_err(|refusal| ActivationError::Refused {
                    part,
                    to: to.name(),
                    refusal,
                })?;
                self.take_steps(&Change { part, to, steps })
            });
            if let Err(undo) = undone {
                let undo = Box::new(undo);
                return ActivationError::Stuck { cause, undo };
            }
        }
        ActivationError::Undone { cause }
    }

    /// The daemons hear of it whatever happens then: the state holds.
    fn report(&self, state: State, planned: Vec<Planned>) -> Report {
        let changes: Vec<Change> = planned.into_iter().map(|each| each.change).collect();
        let heard = changes.iter().any(|change| change.part.is_module());
        Report {
            state,
            reload: heard.then(|| dpkg::reload(self)),
            changes,
        }
    }
}

impl Wanted {
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
        for Change { part, to, .. } in &self.changes {
            let path = part.path();
            match to {
                Wanted::On => writeln!(
                    f,
                    "{part}: on; {path} is a link to {}, and the stock file is {}",
                    part.stand_in(),
                    part.distrib()
                )?,
                Wanted::Off => writeln!(f, "{part}: off; {path} is the stock file")?,
            }
        }
        match &self.reload {
            None | Some(Err(_)) => Ok(()),
            Some(Ok(Reload::Done)) => {
                writeln!(f, "daemons: reloaded by the trigger pve-api-updates")
            }
            Some(Ok(Reload::AtTheEnd)) => {
                writeln!(f, "daemons: reload when the dpkg that is running ends")
            }
        }
    }
}
