//! What is found at a part's path, and the steps from there to what is wanted. Every state that an
//! interrupted run can leave is one of those found here.

use super::part::{DISTRIB, PACKAGE, Part};
use std::path::PathBuf;
use thiserror::Error;

/// What is at the path of the stock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nothing.
    Missing,
    /// A regular file.
    File,
    /// Our symbolic link.
    StandIn,
    /// Somebody else's symbolic link.
    Link(PathBuf),
    /// A directory or the like.
    Other,
}

/// What is at the path with `.distrib`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
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
pub struct Found {
    /// At the path.
    pub place: Place,
    /// Beside it.
    pub kept: Kept,
    /// In dpkg's database.
    pub diversion: Diversion,
    /// An interrupted run has left something that it had not put in its place yet.
    pub unfinished: bool,
    /// The stand-in is installed.
    pub stand_in: bool,
}

impl Found {
    /// Stand-in, stock file and diversion are all there.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.place == Place::StandIn
            && matches!(self.kept, Kept::Same | Kept::Different)
            && self.diversion == Diversion::Ours
    }

    /// Neither a stand-in nor a diversion of ours is there.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.place != Place::StandIn && self.diversion != Diversion::Ours
    }
}

/// What is wanted of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The stand-in in the stock file's place.
    On,
    /// The stock file alone.
    Off,
}

/// One thing to do. After each, and within each, there is a whole file at the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Removes what an interrupted run had not put in its place.
    Sweep,
    /// Has dpkg put the stock file there from now on.
    Divert,
    /// Gives the stock file its second name, `.distrib`.
    Keep,
    /// Renames a link to the stand-in over the path.
    Link,
    /// Renames `.distrib` over the path.
    Restore,
    /// Removes `.distrib`, a second name or a copy.
    DropKept,
    /// Removes the link; the stock file has been removed meanwhile.
    Unlink,
    /// Has dpkg put the stock file in its own place again.
    Undivert,
}

/// Why a part is left as it is.
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
    Stray {
        /// The path.
        path: &'static str,
    },
    /// `.distrib` is no regular file.
    #[error("{path}{DISTRIB} is not a regular file: move it away")]
    NoFile {
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
    Link {
        /// The path.
        path: &'static str,
        /// Where the link goes.
        target: PathBuf,
        /// Whose file should be there.
        package: &'static str,
    },
    /// A directory or the like.
    #[error("{path} is not a file: put the file of {package} back first")]
    NoPlace {
        /// The path.
        path: &'static str,
        /// Whose file should be there.
        package: &'static str,
    },
    /// Ours is not there.
    #[error("{stand_in} is missing: install the package {PACKAGE} again")]
    NoStandIn {
        /// Where it should be.
        stand_in: &'static str,
    },
}

/// The steps from what is found to what is wanted; none if it is that already.
///
/// # Errors
/// What is in the way of it, or would have to be guessed.
pub fn plan(part: Part, found: &Found, wanted: Wanted) -> Result<Vec<Step>, Refusal> {
    let steps = match wanted {
        Wanted::On => on(part, found)?,
        Wanted::Off => off(part, found)?,
    };
    Ok(match found.unfinished {
        true => [&[Step::Sweep], steps].concat(),
        false => steps.to_vec(),
    })
}

fn on(part: Part, found: &Found) -> Result<&'static [Step], Refusal> {
    let path = part.path();
    refuse_foreign(part, &found.diversion)?;
    refuse_place(part, &found.place)?;
    if found.kept == Kept::Other {
        return Err(Refusal::NoFile { path });
    }
    let ours = found.diversion == Diversion::Ours;
    let steps: Result<&'static [Step], _> = match (&found.place, found.kept) {
        (Place::File, Kept::Missing) if ours => Ok(&[Step::Keep, Step::Link]),
        // Diverted first: a newer one that dpkg unpacks between two steps then goes to `.distrib`.
        (Place::File, Kept::Missing) => Ok(&[Step::Divert, Step::Keep, Step::Link]),
        // Between two steps, dpkg may have unpacked a newer one to `.distrib`.
        (Place::File, _) if ours => Ok(&[Step::Link]),
        (Place::File, Kept::Same) => Ok(&[Step::Divert, Step::Link]),
        (Place::StandIn, Kept::Missing) | (Place::Missing, Kept::Missing) => {
            Err(Refusal::NotInstalled {
                path,
                package: part.package(),
                left: found.place == Place::StandIn,
            })
        }
        (Place::StandIn, _) if ours => Ok(&[]),
        (Place::StandIn, _) => Ok(&[Step::Divert]),
        (Place::Missing, _) if ours => Ok(&[Step::Link]),
        _ => Err(Refusal::Stray { path }),
    };
    let stand_in = part.stand_in();
    match steps {
        // Also while it is on: the link leads nowhere.
        Ok(_) if !found.stand_in => Err(Refusal::NoStandIn { stand_in }),
        steps => steps,
    }
}

fn off(part: Part, found: &Found) -> Result<&'static [Step], Refusal> {
    let path = part.path();
    let ours = found.diversion == Diversion::Ours;
    if found.is_off() {
        // What else is there is not ours to judge, but for the second name of an interrupted run.
        let second = found.diversion == Diversion::None
            && found.place == Place::File
            && found.kept == Kept::Same;
        return Ok(if second { &[Step::DropKept] } else { &[] });
    }
    refuse_foreign(part, &found.diversion)?;
    refuse_place(part, &found.place)?;
    if found.kept == Kept::Other {
        return Err(Refusal::NoFile { path });
    }
    Ok(match (&found.place, found.kept, ours) {
        // A rename from one name of a file to another would leave both.
        (Place::File, Kept::Same, _) => &[Step::DropKept, Step::Undivert],
        (Place::StandIn, Kept::Missing, true) => &[Step::Unlink, Step::Undivert],
        (Place::StandIn, Kept::Missing, false) => &[Step::Unlink],
        (_, Kept::Missing, _) => &[Step::Undivert],
        // dpkg unpacks to `.distrib`: what is there is never older than what is at the path.
        (_, _, true) => &[Step::Restore, Step::Undivert],
        (_, _, false) => &[Step::Restore],
    })
}

fn refuse_foreign(part: Part, diversion: &Diversion) -> Result<(), Refusal> {
    match diversion {
        Diversion::Foreign { by, to } => Err(Refusal::Diverted {
            path: part.path(),
            by: match by.as_str() {
                "LOCAL" => "the local administrator".to_owned(),
                package => format!("the package {package}"),
            },
            to: to.clone(),
        }),
        Diversion::None | Diversion::Ours => Ok(()),
    }
}

fn refuse_place(part: Part, place: &Place) -> Result<(), Refusal> {
    let (path, package) = (part.path(), part.package());
    match place {
        Place::Link(target) => Err(Refusal::Link {
            path,
            target: target.clone(),
            package,
        }),
        Place::Other => Err(Refusal::NoPlace { path, package }),
        Place::Missing | Place::File | Place::StandIn => Ok(()),
    }
}
