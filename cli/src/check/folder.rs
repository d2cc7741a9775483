//! The folder of a check: its local sockets, and a note of the guest that it creates at the target. The folder of
//! a check that was killed, or that has not seen the guest removed, stays: the next ones to the same target find it,
//! and remove it when the guest is gone.

use super::advice::Advice;
use super::api::{Api, ApiError, encoded};
use super::finding::{Finding, Step};
use super::remote::Remote;
use super::report::Report;
use super::target::is_free;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Uid, mkdtemp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The beginning of the folder's name.
const NAME: &str = "pve-tunnel-check-";

/// The file with the note.
const NOTE: &str = "guest";

/// Largest note that is read, in bytes.
const MAX_NOTE: u64 = 4096;

/// Longest path of a UNIX socket, in bytes: unix(7), sun_path without the zero at its end.
const MAX_SOCKET_PATH: usize = 107;

/// The longest name of a socket in the folder: the connector has one for a moment when it resets connections.
const LONGEST_SOCKET: &str = ".4194304.99";

/// Why TMPDIR cannot have sockets. None if it can.
pub(super) fn too_long() -> Option<String> {
    too_long_in(&std::env::temp_dir())
}

fn too_long_in(parent: &Path) -> Option<String> {
    let socket = parent.join(format!("{NAME}XXXXXX")).join(LONGEST_SOCKET);
    let excess = socket.as_os_str().len().checked_sub(MAX_SOCKET_PATH + 1)? + 1;
    let length = parent.as_os_str().len();
    Some(format!(
        "TMPDIR is too long: '{}' has {length} bytes, and the path of a UNIX socket in a folder there would exceed the limit of {MAX_SOCKET_PATH} by {excess}",
        parent.display()
    ))
}

/// The empty guest that a check creates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EmptyGuest {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) node: String,
    /// `qemu` or `lxc`.
    pub(super) kind: String,
    pub(super) vmid: u32,
}

impl EmptyGuest {
    /// How people find out whether it is left, and the commands that remove it.
    pub(super) fn removal(&self) -> Advice {
        let (tool, vmid) = (if self.kind == "lxc" { "pct" } else { "qm" }, self.vmid);
        Advice::with_command(
            format!("on the target, if '{tool} config {vmid}' shows only 'lock: create'"),
            format!("{tool} unlock {vmid} && {tool} destroy {vmid}"),
        )
    }
}

/// A folder that is removed when the value is dropped. It is locked as long as its check runs.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: Flock<File>,
    is_kept: bool,
}

impl Folder {
    /// Creates a folder with a note of the guest.
    pub(super) fn create(guest: &EmptyGuest) -> io::Result<Self> {
        Self::create_in(&std::env::temp_dir(), guest)
    }

    fn create_in(parent: &Path, guest: &EmptyGuest) -> io::Result<Self> {
        let path = mkdtemp(&parent.join(format!("{NAME}XXXXXX")))?;
        let folder = match lock(&path) {
            Ok(lock) => Self::locked(path, lock),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                return Err(error);
            }
        };
        fs::write(folder.path.join(NOTE), serde_json::to_vec(guest)?)?;
        Ok(folder)
    }

    fn locked(path: PathBuf, lock: Flock<File>) -> Self {
        Self {
            path,
            _lock: lock,
            is_kept: false,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the folder to the next check, because the guest may be left.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_kept {
            // The connector has removed the sockets, or removes them at its end.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Reports the empty guests that earlier checks have left at this target, or may have left, and removes the folders
/// of those that are gone. `pve-tunnel leftovers` at the target reports the guests, too.
pub(super) fn report_earlier_checks(api: &Api, remote: &Remote, report: &mut Report) {
    for (folder, guest) in of_earlier_checks(&remote.host, remote.port) {
        let EmptyGuest { node, vmid, .. } = &guest;
        let noted = format!("noted in {}", folder.path().display());
        let text = match is_left(api, &guest) {
            Ok(false) => continue,
            Ok(true) => {
                format!("an earlier check has left the empty guest {vmid} on node {node} ({noted})")
            }
            Err(error) => format!(
                "it is not known whether the empty guest {vmid} of an earlier check is left on node {node} ({noted}): {error}"
            ),
        };
        report.add(Finding::worse(Step::Cleanup, text, guest.removal()));
        folder.keep();
    }
}

fn is_left(api: &Api, guest: &EmptyGuest) -> Result<bool, ApiError> {
    let EmptyGuest {
        node, kind, vmid, ..
    } = guest;
    if is_free(api, *vmid)? {
        return Ok(false);
    }
    match api.get(&format!("/nodes/{}/{kind}/{vmid}/config", encoded(node))) {
        // It may have been removed, and another guest may have its VMID now.
        Ok(answer) => Ok(is_empty(&answer.data)),
        // Without VM.Audit, the configuration cannot be read.
        Err(error) if error.status() == Some(403) => Ok(true),
        // The guest that has its VMID now is on another node, or of the other kind.
        Err(error) if error.to_string().contains("does not exist") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a configuration has only what the request for a tunnel creates.
fn is_empty(configuration: &Value) -> bool {
    let known = |key: &String| ["lock", "digest"].contains(&key.as_str());
    configuration
        .as_object()
        .is_some_and(|options| options.contains_key("lock") && options.keys().all(known))
}

/// The folders that this user's checks of this target have left, and their guests. Dropping a folder removes it.
fn of_earlier_checks(host: &str, port: u16) -> Vec<(Folder, EmptyGuest)> {
    left_in(&std::env::temp_dir(), host, port)
}

fn left_in(parent: &Path, host: &str, port: u16) -> Vec<(Folder, EmptyGuest)> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let paths = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(NAME))
        .map(|entry| entry.path());
    paths
        .filter_map(|path| {
            let guest = note(&path).filter(|guest| guest.host == host && guest.port == port)?;
            let lock = lock(&path).ok()?;
            Some((Folder::locked(path, lock), guest))
        })
        .collect()
}

/// The note in a folder that belongs to this user, and that no other user can write.
fn note(folder: &Path) -> Option<EmptyGuest> {
    let found = fs::symlink_metadata(folder).ok()?;
    let note = folder.join(NOTE);
    let is_own =
        found.is_dir() && found.uid() == Uid::effective().as_raw() && found.mode() & 0o077 == 0;
    if !is_own || fs::metadata(&note).ok()?.len() > MAX_NOTE {
        return None;
    }
    serde_json::from_slice(&fs::read(note).ok()?).ok()
}

/// Fails while another process has the lock.
fn lock(folder: &Path) -> io::Result<Flock<File>> {
    Flock::lock(File::open(folder)?, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, errno)| errno.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    fn guest(host: &str) -> EmptyGuest {
        EmptyGuest {
            host: host.to_owned(),
            port: 8006,
            node: "pve2".to_owned(),
            kind: "qemu".to_owned(),
            vmid: 999_000_001,
        }
    }

    #[test]
    fn the_folder_of_a_killed_check_is_found_by_the_next_one() {
        let parent = tempfile::tempdir().unwrap();
        let killed = |host| left_in(parent.path(), host, 8006);
        let running = Folder::create_in(parent.path(), &guest("a")).unwrap();
        assert!(killed("a").is_empty(), "it is locked");
        // The kernel removes the lock of a process that was killed, and the folder stays.
        let path = running.path.clone();
        std::mem::forget(running);
        assert!(killed("a").is_empty());
        let copy = parent.path().join(format!("{NAME}copy"));
        fs::create_dir(&copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)).unwrap();
        fs::copy(path.join(NOTE), copy.join(NOTE)).unwrap();
        assert!(killed("b").is_empty(), "another target");
        let (folder, found) = killed("a").pop().unwrap();
        assert_eq!((folder.path(), found), (copy.as_path(), guest("a")));
        folder.keep();
        assert_eq!(killed("a").len(), 1, "a folder that was kept");
        assert!(!copy.exists(), "it was dropped");
    }

    #[test]
    fn a_folder_whose_sockets_would_have_long_paths_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let overhead = parent.path().as_os_str().len() + "/".len();
        for fill in 1..=MAX_SOCKET_PATH - overhead {
            let inner = parent.path().join("x".repeat(fill));
            fs::create_dir(&inner).unwrap();
            let folder = Folder::create_in(&inner, &guest("a")).unwrap();
            // The kernel is the judge.
            let bound = UnixListener::bind(folder.path().join(LONGEST_SOCKET));
            assert_eq!(too_long_in(&inner).is_none(), bound.is_ok(), "{fill}");
        }
    }

    #[test]
    fn a_folder_that_others_can_write_is_ignored() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join(format!("{NAME}x"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(NOTE), serde_json::to_vec(&guest("a")).unwrap()).unwrap();
        for (mode, count) in [(0o777, 0), (0o750, 0), (0o700, 1)] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            let killed = left_in(parent.path(), "a", 8006);
            assert_eq!(killed.len(), count, "{mode:o}");
            killed.into_iter().for_each(std::mem::forget);
        }
        fs::write(folder.join(NOTE), "{}").unwrap();
        assert!(left_in(parent.path(), "a", 8006).is_empty());
    }
}
