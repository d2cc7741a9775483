//! Why something was not switched.

use super::component::Component;
use super::program::ProgramError;
use super::steps::Refusal;
use std::path::PathBuf;
use thiserror::Error;

/// Why a node is not in the state that was asked for.
#[derive(Debug, Error)]
pub enum ActivationError {
    /// Files of packages are changed, and only root may.
    #[error("only root can switch pve-tunnel on and off: run this as root")]
    NotRoot,
    /// Two at once would undo each other.
    #[error("another pve-tunnel enable or disable is running: wait for its end")]
    Busy,
    /// The directory that is locked meanwhile cannot be.
    #[error("cannot lock {}: {cause}", .path.display())]
    Lock {
        /// The directory.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// What is there is not what can be switched.
    #[error("the {component} cannot be switched {to}: {refusal}. Nothing was changed")]
    Refused {
        /// Of which component.
        component: Component,
        /// `on` or `off`.
        to: &'static str,
        /// Why.
        refusal: Refusal,
    },
    /// Perl cannot load the stock module, with or without us.
    #[error("Perl cannot load the stock module of the {component}: {reason}. Nothing was changed")]
    NotLoaded {
        /// Of which component.
        component: Component,
        /// What Perl says.
        reason: String,
    },
    /// Perl finds another file first.
    #[error(
        "Perl loads {file} in the place of {}: move it away. Nothing was changed", .component.path()
    )]
    Shadowed {
        /// Of which component.
        component: Component,
        /// What it loads.
        file: String,
    },
    /// The module is not one that we were written for, or ours do not load.
    #[error(
        "the {component} does not take this version of {}: {reason}. Nothing was changed; migrations go the stock way until there is a pve-tunnel that does", .component.package()
    )]
    Unsupported {
        /// Of which component.
        component: Component,
        /// What is not as it is known.
        reason: String,
    },
    /// A file cannot be looked at.
    #[error("cannot look at {}: {cause}", .path.display())]
    Inspect {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A step has failed.
    #[error("cannot {tried}: {cause}")]
    Step {
        /// Of which component.
        component: Component,
        /// What was tried.
        tried: String,
        /// Why it failed.
        cause: std::io::Error,
    },
    /// It failed half-way, and the components that had been switched are what they were.
    #[error("{cause}. What had been changed before was undone")]
    RolledBack {
        /// What failed.
        cause: Box<ActivationError>,
    },
    /// It failed half-way, and so did the way back.
    #[error(
        "{cause}; and what had been changed could not be undone: {undo}. 'pve-tunnel disable' switches everything off once that is remedied"
    )]
    RollbackFailed {
        /// What failed.
        cause: Box<ActivationError>,
        /// What failed then.
        undo: Box<ActivationError>,
    },
    /// A program of the system did not do its component.
    #[error(transparent)]
    Program(#[from] ProgramError),
}
