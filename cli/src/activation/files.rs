//! Inspection of a component's files, and the steps that change them.

use super::component::{Component, DISTRIB, UNFINISHED};
use super::dpkg;
use super::steps::{AtDistrib, AtPath, Inspection, Step};
use super::{ActivationError, Node};
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

impl Node {
    /// Inspects the files and the diversion of a component. Changes nothing.
    ///
    /// # Errors
    /// A file cannot be inspected, or a program of dpkg fails.
    pub fn inspect(&self, component: Component) -> Result<Inspection, ActivationError> {
        let files = Files::of(self, component);
        let metadata = |path: &Path| {
            metadata(path).map_err(|cause| ActivationError::Inspect {
                path: path.to_owned(),
                cause,
            })
        };
        let path = metadata(&files.path)?;
        let distrib = metadata(&files.distrib)?;
        let at_path = match &path {
            None => AtPath::Missing,
            Some(path) if path.is_file() => AtPath::File,
            Some(path) if path.is_symlink() => inspect_link(component, &files.path)?,
            Some(_) => AtPath::Other,
        };
        let at_distrib = match (&path, &distrib) {
            (_, None) => AtDistrib::Missing,
            (_, Some(distrib)) if !distrib.is_file() => AtDistrib::Other,
            (Some(path), Some(distrib)) if at_path == AtPath::File => {
                let same =
                    same(&files, path, distrib).map_err(|cause| ActivationError::Inspect {
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
            unfinished: metadata(&files.new_link)?.is_some()
                || metadata(&files.new_copy)?.is_some(),
            replacement: metadata(&self.at(component.replacement()))?
                .is_some_and(|replacement| replacement.is_file()),
        })
    }

    /// Performs one of the steps that [`steps_for()`](super::steps_for) returns.
    ///
    /// # Errors
    /// The step failed. The file at the path is then the same as before.
    pub fn perform(&self, component: Component, step: Step) -> Result<(), ActivationError> {
        let files = Files::of(self, component);
        let changed = match step {
            Step::CleanUp => remove(&files.new_link).and_then(|()| remove(&files.new_copy)),
            Step::PreserveStock => files.preserve_stock(),
            Step::LinkReplacement => symlink(component.link(), &files.new_link)
                .and_then(|()| fs::rename(&files.new_link, &files.path)),
            Step::RestoreStock => fs::rename(&files.distrib, &files.path),
            Step::RemoveDistrib => fs::remove_file(&files.distrib),
            Step::RemoveLink => fs::remove_file(&files.path),
            Step::AddDiversion => return Ok(dpkg::add_diversion(self, component)?),
            Step::RemoveDiversion => return Ok(dpkg::remove_diversion(self, component)?),
        };
        // Written to disk before the next step: that may be dpkg's, which writes its database to
        // disk.
        changed
            .and_then(|()| sync(files.directory()))
            .map_err(|cause| ActivationError::Step {
                component,
                action: files.action(step),
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

    /// Creates `.distrib` as a hard link to the stock file, or as a copy if the file system does not
    /// support hard links. Creates nothing if `.distrib` exists: dpkg has unpacked a newer version
    /// there since the inspection.
    fn preserve_stock(&self) -> io::Result<()> {
        match fs::hard_link(&self.path, &self.distrib) {
            Ok(()) => return Ok(()),
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(_) => {}
        }
        fs::copy(&self.path, &self.new_copy)?;
        File::open(&self.new_copy)?.sync_all()?;
        fs::rename(&self.new_copy, &self.distrib)
    }

    fn action(&self, step: Step) -> String {
        let (path, distrib) = (self.path.display(), self.distrib.display());
        match step {
            Step::CleanUp => format!("remove what an interrupted run left beside {path}"),
            Step::PreserveStock => format!("create {distrib} from {path}"),
            Step::LinkReplacement => format!("replace {path} with a link"),
            Step::RestoreStock => format!("rename {distrib} to {path}"),
            Step::RemoveDistrib => format!("remove {distrib}"),
            Step::RemoveLink => format!("remove the link {path}"),
            Step::AddDiversion => format!("divert {path}"),
            Step::RemoveDiversion => format!("remove the diversion of {path}"),
        }
    }
}

fn metadata(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

fn inspect_link(component: Component, path: &Path) -> Result<AtPath, ActivationError> {
    let target = fs::read_link(path).map_err(|cause| ActivationError::Inspect {
        path: path.to_owned(),
        cause,
    })?;
    // An administrator who creates the link by hand would use the absolute path.
    let ours =
        target == Path::new(component.link()) || target == Path::new(component.replacement());
    Ok(match ours {
        true => AtPath::Replacement,
        false => AtPath::Link(target),
    })
}

/// Whether the files at the path and at `.distrib` are one file, or have the same content.
fn same(files: &Files, path: &Metadata, distrib: &Metadata) -> io::Result<bool> {
    if (path.dev(), path.ino()) == (distrib.dev(), distrib.ino()) {
        return Ok(true);
    }
    if path.len() != distrib.len() {
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
