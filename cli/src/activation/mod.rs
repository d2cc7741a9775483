//! Switching pve-tunnel on and off on a node of Proxmox VE.
//!
//! Three stock files can be diverted, each a [`Component`]: two Perl modules and the helper program. A
//! symbolic link to a stand-in takes the place of the file, which dpkg keeps beside it as `.distrib`
//! from then on, through upgrades of either package.
//!
//! | state | overlay | seam | helper |
//! |---|---|---|---|
//! | off | stock | stock | stock |
//! | [`Scope::Modules`] | diverted | diverted | stock |
//! | [`Scope::HelperOnly`] | stock | stock | diverted |
//!
//! [`steps_for()`] says which steps lead from what is found to what is desired. Each of them leaves a whole
//! file at the path, and a state that the next run knows, wherever it is interrupted.

mod component;
mod daemon;
mod dpkg;
mod error;
mod files;
mod probe;
mod program;
mod status;
mod steps;
mod switch;

pub use component::Component;
pub use daemon::DaemonStatus;
pub use dpkg::{Package, Reload};
pub use error::ActivationError;
pub use probe::ModuleStatus;
pub use program::ProgramError;
pub use status::{ComponentState, ComponentStatus, NodeState, Status};
pub use steps::{AtDistrib, AtPath, DesiredState, Diversion, Inspection, Refusal, Step, steps_for};
pub use switch::{Change, Report, Scope};

use std::path::{Path, PathBuf};

/// A file system with a dpkg database: that of this machine, or a tree with the same layout.
#[derive(Debug, Clone)]
pub struct Node {
    root: PathBuf,
    /// A maintainer script of dpkg's calls us: it runs, and processes triggers at its end.
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

    /// The tree below a directory, which is an absolute path.
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
