//! Switching pve-tunnel on and off on a node of Proxmox VE.
//!
//! Three stock files can be diverted. Each is a [`Component`]: two Perl modules and the helper
//! program. While a component is on, a symbolic link to its replacement is at the path of the stock
//! file. dpkg keeps the stock file beside it, with the name extension `.distrib`, also when either
//! package is upgraded.
//!
//! | state | overlay | seam | helper |
//! |---|---|---|---|
//! | off | stock | stock | stock |
//! | [`Scope::Modules`] | diverted | diverted | stock |
//! | [`Scope::HelperOnly`] | stock | stock | diverted |
//!
//! [`steps_for()`] returns the steps from the inspected to the desired state. A run can be
//! interrupted between any two steps and within each step: there is always a complete file at the
//! path, and the next run recognizes the state.

mod component;
mod daemon;
mod dpkg;
mod error;
mod files;
mod lock;
mod probe;
mod status;
mod steps;
mod switch;

pub use crate::program::ProgramError;
pub use component::Component;
pub use daemon::DaemonStatus;
pub use dpkg::{Package, Reload};
pub use error::ActivationError;
pub use probe::ModuleStatus;
pub use status::{ComponentState, ComponentStatus, NodeState, Status};
pub use steps::{AtDistrib, AtPath, DesiredState, Diversion, Inspection, Refusal, Step, steps_for};
pub use switch::{Change, Report, Scope};

use std::path::{Path, PathBuf};

/// A file system with a dpkg database: this machine, or a directory tree with the same layout.
#[derive(Debug, Clone)]
pub struct Node {
    root: PathBuf,
    /// A maintainer script runs this process. dpkg is then running, and processes triggers when it
    /// ends.
    pub maintainer_script: bool,
}

impl Node {
    /// This machine.
    #[must_use]
    pub fn this_machine() -> Self {
        Self {
            root: PathBuf::from("/"),
            maintainer_script: std::env::var_os("DPKG_MAINTSCRIPT_PACKAGE").is_some(),
        }
    }

    /// A directory tree with this root, which is an absolute path.
    #[must_use]
    pub fn with_root(root: PathBuf) -> Self {
        Self {
            root,
            maintainer_script: false,
        }
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn is_this_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}
