//! Errors of switching on and off, and of `status`.

use super::component::Component;
use super::steps::Refusal;
use crate::program::ProgramError;
use std::path::PathBuf;
use thiserror::Error;

/// Why a node is not in the requested state, or why its state cannot be determined.
#[derive(Debug, Error)]
pub enum ActivationError {
    /// Files of packages are changed, which requires root.
    #[error("only root can switch pve-tunnel on and off: run this as root")]
    NotRoot,
    /// Another run holds the lock. Two runs at the same time would undo each other's changes.
    #[error("another pve-tunnel enable or disable is running: wait until it ends")]
    Busy,
    /// The directory that serves as the lock cannot be locked.
    #[error("cannot lock {}: {cause}", .path.display())]
    Lock {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        cause: std::io::Error,
    },
    /// The component cannot be switched from the state that it is in.
    #[error("the {component} cannot be switched {to}: {refusal}. Nothing was changed")]
    Refused {
        /// The component.
        component: Component,
        /// `on` or `off`.
        to: &'static str,
        /// The reason.
        refusal: Refusal,
    },
    /// Perl cannot load the stock module.
    #[error(
        "Perl cannot load the stock module of the {component}: {reason}. Install {} again, or a newer version of it. Nothing was changed", .component.package()
    )]
    NotLoaded {
        /// The component.
        component: Component,
        /// Perl's error message.
        reason: String,
    },
    /// Perl finds another file before the module's.
    #[error(
        "Perl loads {file} instead of {}: move {file} away. Nothing was changed", .component.path()
    )]
    Shadowed {
        /// The component.
        component: Component,
        /// The file that Perl loads.
        file: String,
    },
    /// The overlay or seam does not support this version of the stock module, or cannot be loaded.
    #[error(
        "the {component} does not support this version of {}: {reason}. Nothing was changed. Migrations use the stock tunnel until a version of pve-tunnel that supports it is installed", .component.package()
    )]
    Unsupported {
        /// The component.
        component: Component,
        /// How the stock module differs, or why the overlay or seam cannot be loaded.
        reason: String,
    },
    /// The state of a file cannot be read.
    #[error("cannot inspect {}: {cause}", .path.display())]
    Inspect {
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: std::io::Error,
    },
    /// A step failed.
    #[error("cannot {action}: {cause}")]
    Step {
        /// The component.
        component: Component,
        /// What the step does.
        action: String,
        /// The system's error.
        cause: std::io::Error,
    },
    /// A step failed, and the components that had been switched before were switched back.
    #[error("{cause}. The changes that had been made before were undone")]
    RolledBack {
        /// The error of the step.
        cause: Box<ActivationError>,
    },
    /// A step failed, and so did switching the other components back.
    #[error(
        "{cause}. The changes that had been made before could not be undone: {rollback}. Fix the cause, then run 'pve-tunnel disable', which switches everything off"
    )]
    RollbackFailed {
        /// The error of the step.
        cause: Box<ActivationError>,
        /// The error of switching back.
        rollback: Box<ActivationError>,
    },
    /// A program of the system failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
}
