//! What is found at a component's path, and the steps from there to what is desired. Every state that an
//! interrupted run can leave is one of those found here.

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
    /// Our symbolic link.
    Replacement,
    /// Somebody else's symbolic link.
    Link(PathBuf),
    /// A directory or the like.
    Other,
}

/// What is at the path with `.distrib`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtDistrib {
    /// Nothing.
    Missing,
    /// The very file that is at the path, or a copy of it.
    Same,
    /// A file with other content.
    Different,
    /// No regular file.
    Other,
}

/// Whether dpkg diverts the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diversion {
    /// It does not.
    None,
    /// To `.distrib`, in the name of pve-tunnel.
    Ours,
    /// Something else, in words of dpkg.
    Foreign {
        /// The package, or `LOCAL` for an administrator's.
        by: String,
        /// Where the file goes.
        to: String,
    },
}

/// All of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// At the path.
    pub at_path: AtPath,
    /// Beside it.
    pub at_distrib: AtDistrib,
    /// In dpkg's database.
    pub diversion: Diversion,
    /// An interrupted run has left something that it had not put in its place yet.
    pub unfinished: bool,
    /// The stand-in is installed.
    pub replacement: bool,
}

impl Inspection {
    /// Stand-in, stock file and diversion are all there.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.at_path == AtPath::Replacement
            && matches!(self.at_distrib, AtDistrib::Same | AtDistrib::Different)
            && self.diversion == Diversion::Ours
    }

    /// Neither a stand-in nor a diversion of ours is there.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.at_path != AtPath::Replacement && self.diversion != Diversion::Ours
    }
}

/// What is desired of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DesiredState {
    /// The stand-in in the stock file's place.
    On,
    /// The stock file alone.
    Off,
}

/// One thing to do. After each, and within each, there is a whole file at the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Removes what an interrupted run had not put in its place.
    CleanUp,
    /// Has dpkg put the stock file there from now on.
    AddDiversion,
    /// Gives the stock file its second name, `.distrib`.
    PreserveStock,
    /// Renames a link to the stand-in over the path.
    LinkReplacement,
    /// Renames `.distrib` over the path.
    RestoreStock,
    /// Removes `.distrib`, a second name or a copy.
    RemoveDistrib,
    /// Removes the link; the stock file has been removed meanwhile.
    RemoveLink,
    /// Has dpkg put the stock file in its own place again.
    RemoveDiversion,
}

/// Why a component is left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Somebody else's diversion.
    #[error(
        "dpkg diverts {path} to {to} for {by}: remove that diversion first (dpkg-divert --remove)"
    )]
    Diverted {
        /// The path.
        path: &'static str,
        /// Whose diversion.
        by: String,
        /// Where to.
        to: String,
    },
    /// There is a `.distrib` of which nobody knows.
    #[error(
        "{path}{DISTRIB} exists, is not {path}, and is not diverted: move it away if nobody needs it"
    )]
    StrayDistrib {
        /// The path.
        path: &'static str,
    },
    /// `.distrib` is no regular file.
    #[error("{path}{DISTRIB} is not a regular file: move it away")]
    DistribNotAFile {
        /// The path.
        path: &'static str,
    },
    /// The stock file is not there.
    #[error("{path} of the package {package} is not installed{}", if *.left { ": 'pve-tunnel disable' removes the link in its place" } else { "" })]
    NotInstalled {
        /// The path.
        path: &'static str,
        /// Whose it is.
        package: &'static str,
        /// Our link is still there.
        left: bool,
    },
    /// A link of somebody else.
    #[error("{path} is a symbolic link to '{}', which is not ours: put the file of {package} back first", .target.display())]
    ForeignLink {
        /// The path.
        path: &'static str,
        /// Where the link goes.
        target: PathBuf,
        /// Whose file should be there.
        package: &'static str,
    },
    /// A directory or the like.
    #[error("{path} is not a file: put the file of {package} back first")]
    PathNotAFile {
        /// The path.
        path: &'static str,
        /// Whose file should be there.
        package: &'static str,
    },
    /// Ours is not there.
    #[error("{replacement} is missing: install the package {PACKAGE} again")]
    NoReplacement {
        /// Where it should be.
        replacement: &'static str,
    },
}

/// The steps from what is found to what is desired; none if it is that already.
///
/// # Errors
/// What is in the way of it, or would have to be guessed.
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
    refuse_place(component, &found.at_path)?;
    if found.at_distrib == AtDistrib::Other {
        return Err(Refusal::DistribNotAFile { path });
    }
    let ours = found.diversion == Diversion::Ours;
    let steps: Result<&'static [Step], _> = match (&found.at_path, found.at_distrib) {
        (AtPath::File, AtDistrib::Missing) if ours => {
            Ok(&[Step::PreserveStock, Step::LinkReplacement])
        }
        // Diverted first: a newer one that dpkg unpacks between two steps then goes to `.distrib`.
        (AtPath::File, AtDistrib::Missing) => Ok(&[
            Step::AddDiversion,
            Step::PreserveStock,
            Step::LinkReplacement,
        ]),
        // Between two steps, dpkg may have unpacked a newer one to `.distrib`.
        (AtPath::File, _) if ours => Ok(&[Step::LinkReplacement]),
        (AtPath::File, AtDistrib::Same) => Ok(&[Step::AddDiversion, Step::LinkReplacement]),
        (AtPath::Replacement, AtDistrib::Missing) | (AtPath::Missing, AtDistrib::Missing) => {
            Err(Refusal::NotInstalled {
                path,
                package: component.package(),
                left: found.at_path == AtPath::Replacement,
            })
        }
        (AtPath::Replacement, _) if ours => Ok(&[]),
        (AtPath::Replacement, _) => Ok(&[Step::AddDiversion]),
        (AtPath::Missing, _) if ours => Ok(&[Step::LinkReplacement]),
        _ => Err(Refusal::StrayDistrib { path }),
    };
    let replacement = component.replacement();
    match steps {
        // Also while it is on: the link leads nowhere.
        Ok(_) if !found.replacement => Err(Refusal::NoReplacement { replacement }),
        steps => steps,
    }
}

fn off(component: Component, found: &Inspection) -> Result<&'static [Step], Refusal> {
    let path = component.path();
    let ours = found.diversion == Diversion::Ours;
    if found.is_off() {
        // What else is there is not ours to judge, but for the second name of an interrupted run.
        let second = found.diversion == Diversion::None
            && found.at_path == AtPath::File
            && found.at_distrib == AtDistrib::Same;
        return Ok(if second { &[Step::RemoveDistrib] } else { &[] });
    }
    refuse_foreign(component, &found.diversion)?;
    refuse_place(component, &found.at_path)?;
    if found.at_distrib == AtDistrib::Other {
        return Err(Refusal::DistribNotAFile { path });
    }
    Ok(match (&found.at_path, found.at_distrib, ours) {
        // A rename from one name of a file to another would leave both.
        (AtPath::File, AtDistrib::Same, _) => &[Step::RemoveDistrib, Step::RemoveDiversion],
        (AtPath::Replacement, AtDistrib::Missing, true) => {
            &[Step::RemoveLink, Step::RemoveDiversion]
        }
        (AtPath::Replacement, AtDistrib::Missing, false) => &[Step::RemoveLink],
        (_, AtDistrib::Missing, _) => &[Step::RemoveDiversion],
        // dpkg unpacks to `.distrib`: what is there is never older than what is at the path.
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

fn refuse_place(component: Component, at_path: &AtPath) -> Result<(), Refusal> {
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
