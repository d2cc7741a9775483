//! The inspected state of a component, its desired state, and the steps from one to the other. The
//! inspected state can be each state that an interrupted run leaves.

use super::component::{Component, DISTRIB, PACKAGE};
use std::path::PathBuf;
use thiserror::Error;

/// What is at the path of the stock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtPath {
    /// Nothing.
    Missing,
    /// A regular file.
    File,
    /// A symbolic link to the replacement.
    Replacement,
    /// A symbolic link to another file.
    Link(PathBuf),
    /// A directory or a special file.
    Other,
}

/// What is at the path with the name extension `.distrib`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtDistrib {
    /// Nothing.
    Missing,
    /// A hard link to the file at the path, or a copy of it.
    Same,
    /// A file with other content than the file at the path, or the only file.
    Different,
    /// A symbolic link, a directory or a special file.
    Other,
}

/// Whether dpkg diverts the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diversion {
    /// The path is not diverted.
    None,
    /// The path is diverted to `.distrib` for the package pve-tunnel.
    Ours,
    /// The path is diverted to elsewhere or for another package, or another path is diverted to
    /// `.distrib`.
    Foreign {
        /// The package that diverts, or `LOCAL` for a diversion by the administrator.
        by: String,
        /// The path at which dpkg installs the stock file.
        to: String,
    },
}

/// The inspected state of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// What is at the path.
    pub at_path: AtPath,
    /// What is at `.distrib`.
    pub at_distrib: AtDistrib,
    /// The diversion in dpkg's database.
    pub diversion: Diversion,
    /// Whether an interrupted run has left a file or link that it had not renamed yet.
    pub unfinished: bool,
    /// Whether the replacement is installed.
    pub replacement: bool,
}

impl Inspection {
    /// Whether the link to the replacement, the stock file and the diversion all exist.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.at_path == AtPath::Replacement
            && matches!(self.at_distrib, AtDistrib::Same | AtDistrib::Different)
            && self.diversion == Diversion::Ours
    }

    /// Whether neither the link to the replacement nor the diversion exists.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.at_path != AtPath::Replacement && self.diversion != Diversion::Ours
    }

    /// Whether the stock file exists, at its path or beside the link.
    #[must_use]
    pub fn has_stock(&self) -> bool {
        self.at_path == AtPath::File || self.at_distrib != AtDistrib::Missing
    }
}

/// The desired state of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DesiredState {
    /// The replacement is at the path of the stock file.
    On,
    /// The stock file is at its path, and nothing is diverted.
    Off,
}

/// A step. If there is a file at the path, a complete file stays there during and after each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Removes what an interrupted run had not renamed yet.
    CleanUp,
    /// Adds the diversion: dpkg installs the stock file at `.distrib` from then on.
    AddDiversion,
    /// Creates `.distrib` as a second name or a copy of the stock file.
    PreserveStock,
    /// Renames a new link to the replacement to the path.
    LinkReplacement,
    /// Renames `.distrib` to the path.
    RestoreStock,
    /// Removes `.distrib`, which is a second name or a copy of the stock file.
    RemoveDistrib,
    /// Removes the link to the replacement. The stock file has been removed in the meantime.
    RemoveLink,
    /// Removes the diversion: dpkg installs the stock file at its path again.
    RemoveDiversion,
}

/// Why a component is not changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Another package or the administrator diverts the path.
    #[error(
        "dpkg diverts {path} to {to} for {by}: remove that diversion first (dpkg-divert --remove)"
    )]
    Diverted {
        /// The path of the stock file.
        path: &'static str,
        /// The package, or the administrator, in words.
        by: String,
        /// The path to which it is diverted.
        to: String,
    },
    /// There is a `.distrib` without a diversion.
    #[error(
        "{path}{DISTRIB} exists, differs from {path}, and is not diverted: move it away if it is not needed"
    )]
    StrayDistrib {
        /// The path of the stock file.
        path: &'static str,
    },
    /// `.distrib` is not a regular file.
    #[error("{path}{DISTRIB} is not a regular file: move it away")]
    DistribNotAFile {
        /// The path of the stock file.
        path: &'static str,
    },
    /// The stock file does not exist.
    #[error("{path} of the package {package} is not installed{}", if *.linked { ": 'pve-tunnel disable' removes the link in its place" } else { "" })]
    NotInstalled {
        /// The path of the stock file.
        path: &'static str,
        /// The package that contains it.
        package: &'static str,
        /// Whether the link to the replacement is still at the path.
        linked: bool,
    },
    /// The path is a symbolic link that pve-tunnel did not create.
    #[error("{path} is a symbolic link to '{}', which pve-tunnel did not create: restore the file of the package {package} first", .target.display())]
    ForeignLink {
        /// The path of the stock file.
        path: &'static str,
        /// The target of the link.
        target: PathBuf,
        /// The package that contains the stock file.
        package: &'static str,
    },
    /// The path is a directory or a special file.
    #[error("{path} is not a file: restore the file of the package {package} first")]
    PathNotAFile {
        /// The path of the stock file.
        path: &'static str,
        /// The package that contains it.
        package: &'static str,
    },
    /// The replacement does not exist.
    #[error("{replacement} is missing: install the package {PACKAGE} again")]
    NoReplacement {
        /// The path of the replacement.
        replacement: &'static str,
    },
}

/// Returns the steps from the inspected to the desired state; none if the two are the same.
///
/// # Errors
/// What prevents the change, or leaves open what the change would have to do.
pub fn steps_for(
    component: Component,
    found: &Inspection,
    desired: DesiredState,
) -> Result<Vec<Step>, Refusal> {
    let steps = match desired {
        DesiredState::On => on(component, found)?,
        DesiredState::Off => off(component, found)?,
    };
    Ok(match found.unfinished {
        true => [&[Step::CleanUp], steps].concat(),
        false => steps.to_vec(),
    })
}

fn on(component: Component, found: &Inspection) -> Result<&'static [Step], Refusal> {
    let path = component.path();
    refuse_foreign(component, &found.diversion)?;
    refuse_other_files(component, &found.at_path)?;
    if found.at_distrib == AtDistrib::Other {
        return Err(Refusal::DistribNotAFile { path });
    }
    let ours = found.diversion == Diversion::Ours;
    let steps: Result<&'static [Step], _> = match (&found.at_path, found.at_distrib) {
        (AtPath::File, AtDistrib::Missing) if ours => {
            Ok(&[Step::PreserveStock, Step::LinkReplacement])
        }
        // The diversion comes first: if dpkg unpacks a newer version between two steps, it goes to
        // `.distrib`.
        (AtPath::File, AtDistrib::Missing) => Ok(&[
            Step::AddDiversion,
            Step::PreserveStock,
            Step::LinkReplacement,
        ]),
        // If the files differ, dpkg has unpacked a newer version to `.distrib` between two steps.
        (AtPath::File, _) if ours => Ok(&[Step::LinkReplacement]),
        (AtPath::File, AtDistrib::Same) => Ok(&[Step::AddDiversion, Step::LinkReplacement]),
        (AtPath::Replacement, AtDistrib::Missing) | (AtPath::Missing, AtDistrib::Missing) => {
            Err(Refusal::NotInstalled {
                path,
                package: component.package(),
                linked: found.at_path == AtPath::Replacement,
            })
        }
        (AtPath::Replacement, _) if ours => Ok(&[]),
        (AtPath::Replacement, _) => Ok(&[Step::AddDiversion]),
        (AtPath::Missing, _) if ours => Ok(&[Step::LinkReplacement]),
        _ => Err(Refusal::StrayDistrib { path }),
    };
    let replacement = component.replacement();
    match steps {
        // Also if the component is on: the link is then broken.
        Ok(_) if !found.replacement => Err(Refusal::NoReplacement { replacement }),
        steps => steps,
    }
}

fn off(component: Component, found: &Inspection) -> Result<&'static [Step], Refusal> {
    let path = component.path();
    let ours = found.diversion == Diversion::Ours;
    if found.is_off() {
        // Other files are not changed, except a second name that an interrupted run has left.
        let second_name = found.diversion == Diversion::None
            && found.at_path == AtPath::File
            && found.at_distrib == AtDistrib::Same;
        return Ok(if second_name {
            &[Step::RemoveDistrib]
        } else {
            &[]
        });
    }
    refuse_foreign(component, &found.diversion)?;
    refuse_other_files(component, &found.at_path)?;
    if found.at_distrib == AtDistrib::Other {
        return Err(Refusal::DistribNotAFile { path });
    }
    Ok(match (&found.at_path, found.at_distrib, ours) {
        // Renaming one name of a file to another name of the same file would leave both.
        (AtPath::File, AtDistrib::Same, _) => &[Step::RemoveDistrib, Step::RemoveDiversion],
        (AtPath::Replacement, AtDistrib::Missing, true) => {
            &[Step::RemoveLink, Step::RemoveDiversion]
        }
        (AtPath::Replacement, AtDistrib::Missing, false) => &[Step::RemoveLink],
        (_, AtDistrib::Missing, _) => &[Step::RemoveDiversion],
        // dpkg unpacks to `.distrib`, so that this file is never older than the file at the path.
        (_, _, true) => &[Step::RestoreStock, Step::RemoveDiversion],
        (_, _, false) => &[Step::RestoreStock],
    })
}

fn refuse_foreign(component: Component, diversion: &Diversion) -> Result<(), Refusal> {
    match diversion {
        Diversion::Foreign { by, to } => Err(Refusal::Diverted {
            path: component.path(),
            by: match by.as_str() {
                "LOCAL" => "the local administrator".to_owned(),
                package => format!("the package {package}"),
            },
            to: to.clone(),
        }),
        Diversion::None | Diversion::Ours => Ok(()),
    }
}

fn refuse_other_files(component: Component, at_path: &AtPath) -> Result<(), Refusal> {
    let (path, package) = (component.path(), component.package());
    match at_path {
        AtPath::Link(target) => Err(Refusal::ForeignLink {
            path,
            target: target.clone(),
            package,
        }),
        AtPath::Other => Err(Refusal::PathNotAFile { path, package }),
        AtPath::Missing | AtPath::File | AtPath::Replacement => Ok(()),
    }
}
