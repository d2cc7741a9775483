//! Looking at a part's files, and the steps that change them.

use super::dpkg;
use super::part::{DISTRIB, Part, UNFINISHED};
use super::plan::{Found, Kept, Place, Step};
use super::{ActivationError, Node};
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

impl Node {
    /// What is found of a part.
    ///
    /// # Errors
    /// A file that cannot be looked at, or dpkg that does not answer.
    pub fn find(&self, part: Part) -> Result<Found, ActivationError> {
        let files = Files::of(self, part);
        let look = |path: &Path| {
            look(path).map_err(|cause| ActivationError::Look {
                path: path.to_owned(),
                cause,
            })
        };
        let found = look(&files.path)?;
        let kept = look(&files.distrib)?;
        let place = match &found {
            None => Place::Missing,
            Some(found) if found.is_file() => Place::File,
            Some(found) if found.is_symlink() => link_place(part, &files.path)?,
            Some(_) => Place::Other,
        };
        let kept = match (&found, &kept) {
            (_, None) => Kept::Missing,
            (_, Some(kept)) if !kept.is_file() => Kept::Other,
            (Some(found), Some(kept)) if place == Place::File => {
                let same = same(&files, found, kept).map_err(|cause| ActivationError::Look {
                    path: files.distrib.clone(),
                    cause,
                })?;
                if same { Kept::Same } else { Kept::Different }
            }
            _ => Kept::Different,
        };
        Ok(Found {
            place,
            kept,
            diversion: dpkg::diversion(self, part)?,
            unfinished: look(&files.new_link)?.is_some() || look(&files.new_copy)?.is_some(),
            stand_in: look(&self.at(part.stand_in()))?.is_some_and(|found| found.is_file()),
        })
    }

    /// Takes one step of a [plan](super::plan).
    ///
    /// # Errors
    /// What failed of it; the path has the file then that it had before.
    pub fn perform(&self, part: Part, step: Step) -> Result<(), ActivationError> {
        let files = Files::of(self, part);
        let changed = match step {
            Step::Sweep => remove(&files.new_link).and_then(|()| remove(&files.new_copy)),
            Step::Keep => files.keep(),
            Step::Link => symlink(part.link(), &files.new_link)
                .and_then(|()| fs::rename(&files.new_link, &files.path)),
            Step::Restore => fs::rename(&files.distrib, &files.path),
            Step::DropKept => fs::remove_file(&files.distrib),
            Step::Unlink => fs::remove_file(&files.path),
            Step::Divert => return Ok(dpkg::add_diversion(self, part)?),
            Step::Undivert => return Ok(dpkg::remove_diversion(self, part)?),
        };
        // A name is only there for good once its directory is: the next step may be dpkg's.
        changed
            .and_then(|()| sync(files.directory()))
            .map_err(|cause| ActivationError::Step {
                part,
                tried: files.say(step),
                cause,
            })
    }
}

struct Files {
    path: PathBuf,
    distrib: PathBuf,
    new_link: PathBuf,
    new_copy: PathBuf,
}

impl Files {
    fn of(node: &Node, part: Part) -> Self {
        let beside = |end: &str| node.at(&format!("{}{end}", part.path()));
        Self {
            path: node.at(part.path()),
            distrib: beside(DISTRIB),
            new_link: beside(UNFINISHED),
            new_copy: beside(&format!("{DISTRIB}{UNFINISHED}")),
        }
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// A second name, or a copy where the file system has none; none of it if dpkg has just unpacked
    /// a newer one there.
    fn keep(&self) -> io::Result<()> {
        match fs::hard_link(&self.path, &self.distrib) {
            Ok(()) => return Ok(()),
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(_) => {}
        }
        fs::copy(&self.path, &self.new_copy)?;
        File::open(&self.new_copy)?.sync_all()?;
        fs::rename(&self.new_copy, &self.distrib)
    }

    fn say(&self, step: Step) -> String {
        let (path, distrib) = (self.path.display(), self.distrib.display());
        match step {
            Step::Sweep => format!("remove what an interrupted run left beside {path}"),
            Step::Keep => format!("make {distrib} of {path}"),
            Step::Link => format!("put a link in the place of {path}"),
            Step::Restore => format!("rename {distrib} to {path}"),
            Step::DropKept => format!("remove {distrib}"),
            Step::Unlink => format!("remove the link {path}"),
            Step::Divert | Step::Undivert => format!("divert {path}"),
        }
    }
}

fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

fn link_place(part: Part, path: &Path) -> Result<Place, ActivationError> {
    let target = fs::read_link(path).map_err(|cause| ActivationError::Look {
        path: path.to_owned(),
        cause,
    })?;
    // The long form is what an administrator would have made by hand.
    let ours = target == Path::new(part.link()) || target == Path::new(part.stand_in());
    Ok(match ours {
        true => Place::StandIn,
        false => Place::Link(target),
    })
}

fn same(files: &Files, found: &Metadata, kept: &Metadata) -> io::Result<bool> {
    if (found.dev(), found.ino()) == (kept.dev(), kept.ino()) {
        return Ok(true);
    }
    if found.len() != kept.len() {
        return Ok(false);
    }
    let mut one = BufReader::new(File::open(&files.path)?).bytes();
    let mut other = BufReader::new(File::open(&files.distrib)?).bytes();
    loop {
        match (one.next().transpose()?, other.next().transpose()?) {
            (None, None) => return Ok(true),
            (one, other) if one != other => return Ok(false),
            _ => {}
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
