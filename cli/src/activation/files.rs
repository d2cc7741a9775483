//! Looking at a component's files, and the steps that change them.

use super::component::{Component, DISTRIB, UNFINISHED};
use super::dpkg;
use super::steps::{AtDistrib, AtPath, Inspection, Step};
use super::{ActivationError, Node};
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

impl Node {
    /// What is found of a component.
    ///
    /// # Errors
    /// A file that cannot be looked at, or dpkg that does not answer.
    pub fn inspect(&self, component: Component) -> Result<Inspection, ActivationError> {
        let files = Files::of(self, component);
        let look = |path: &Path| {
            look(path).map_err(|cause| ActivationError::Inspect {
                path: path.to_owned(),
                cause,
            })
        };
        let found = look(&files.path)?;
        let kept = look(&files.distrib)?;
        let at_path = match &found {
            None => AtPath::Missing,
            Some(found) if found.is_file() => AtPath::File,
            Some(found) if found.is_symlink() => link_place(component, &files.path)?,
            Some(_) => AtPath::Other,
        };
        let at_distrib = match (&found, &kept) {
            (_, None) => AtDistrib::Missing,
            (_, Some(kept)) if !kept.is_file() => AtDistrib::Other,
            (Some(found), Some(kept)) if at_path == AtPath::File => {
                let same = same(&files, found, kept).map_err(|cause| ActivationError::Inspect {
                    path: files.distrib.clone(),
                    cause,
                })?;
                if same {
                    AtDistrib::Same
                } else {
                    AtDistrib::Different
                }
            }
            _ => AtDistrib::Different,
        };
        Ok(Inspection {
            at_path,
            at_distrib,
            diversion: dpkg::diversion(self, component)?,
            unfinished: look(&files.new_link)?.is_some() || look(&files.new_copy)?.is_some(),
            replacement: look(&self.at(component.replacement()))?
                .is_some_and(|found| found.is_file()),
        })
    }

    /// Takes one step of a [plan](super::steps).
    ///
    /// # Errors
    /// What failed of it; the path has the file then that it had before.
    pub fn perform(&self, component: Component, step: Step) -> Result<(), ActivationError> {
        let files = Files::of(self, component);
        let changed = match step {
            Step::CleanUp => remove(&files.new_link).and_then(|()| remove(&files.new_copy)),
            Step::PreserveStock => files.keep(),
            Step::LinkReplacement => symlink(component.link(), &files.new_link)
                .and_then(|()| fs::rename(&files.new_link, &files.path)),
            Step::RestoreStock => fs::rename(&files.distrib, &files.path),
            Step::RemoveDistrib => fs::remove_file(&files.distrib),
            Step::RemoveLink => fs::remove_file(&files.path),
            Step::AddDiversion => return Ok(dpkg::add_diversion(self, component)?),
            Step::RemoveDiversion => return Ok(dpkg::remove_diversion(self, component)?),
        };
        // A name is only there for good once its directory is: the next step may be dpkg's.
        changed
            .and_then(|()| sync(files.directory()))
            .map_err(|cause| ActivationError::Step {
                component,
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
    fn of(node: &Node, component: Component) -> Self {
        let beside = |end: &str| node.at(&format!("{}{end}", component.path()));
        Self {
            path: node.at(component.path()),
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
            Step::CleanUp => format!("remove what an interrupted run left beside {path}"),
            Step::PreserveStock => format!("make {distrib} of {path}"),
            Step::LinkReplacement => format!("put a link in the place of {path}"),
            Step::RestoreStock => format!("rename {distrib} to {path}"),
            Step::RemoveDistrib => format!("remove {distrib}"),
            Step::RemoveLink => format!("remove the link {path}"),
            Step::AddDiversion | Step::RemoveDiversion => format!("divert {path}"),
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

fn link_place(component: Component, path: &Path) -> Result<AtPath, ActivationError> {
    let target = fs::read_link(path).map_err(|cause| ActivationError::Inspect {
        path: path.to_owned(),
        cause,
    })?;
    // The long form is what an administrator would have made by hand.
    let ours =
        target == Path::new(component.link()) || target == Path::new(component.replacement());
    Ok(match ours {
        true => AtPath::Replacement,
        false => AtPath::Link(target),
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
