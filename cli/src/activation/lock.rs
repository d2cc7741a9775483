//! The locks of dpkg's database. dpkg documents them for programs that run it, in
//! `/usr/share/doc/dpkg/spec/frontend-api.txt`: a program locks `lock-frontend`, then checks that it
//! can lock `lock`, and then runs dpkg with [`FRONTEND_LOCKED`] set. While the program holds the
//! first lock, no other program and no other dpkg changes the database.

use super::Node;
use crate::program::ProgramError;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

/// The variable that makes dpkg not lock `lock-frontend`, because the program that runs it has done
/// so.
pub(super) const FRONTEND_LOCKED: &str = "DPKG_FRONTEND_LOCKED";

/// The directory of dpkg's database.
const DATABASE: &str = "/var/lib/dpkg";

/// The permissions of a lock file that does not exist yet. dpkg uses the same.
const MODE: u32 = 0o640;

/// A locked file. Dropping unlocks it.
#[derive(Debug)]
pub(super) struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing does not suffice: a child that another thread has just started shares the lock
        // until it executes its program.
        let _ = fcntl(&self.0, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_UNLCK)));
    }
}

/// Locks the database until the result is dropped. None if dpkg is running, or a program that runs
/// it.
pub(super) fn lock_database(node: &Node) -> Result<Option<Locked>, ProgramError> {
    let Some(frontend) = lock(node, "lock-frontend")? else {
        return Ok(None);
    };
    // dpkg locks this file itself, so this lock ends here.
    Ok(lock(node, "lock")?.map(|_| frontend))
}

fn lock(node: &Node, name: &str) -> Result<Option<Locked>, ProgramError> {
    let path = node.at(&format!("{DATABASE}/{name}"));
    let failed = |cause: io::Error| ProgramError::Lock {
        path: path.clone(),
        cause,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .open(&path)
        .map_err(failed)?;
    // A lock of the open file description conflicts with dpkg's locks, which belong to a process.
    // It also conflicts with locks of this process.
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => Ok(Some(Locked(file))),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
        Err(errno) => Err(failed(errno.into())),
    }
}

fn whole_file(lock: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: lock as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_dropped_lock_ends_although_a_child_has_inherited_its_descriptor() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("var/lib/dpkg")).unwrap();
        let node = Node::with_root(root.path().to_owned());
        let locked = lock_database(&node).unwrap().unwrap();
        assert!(lock_database(&node).unwrap().is_none());
        let _inherited = locked.0.try_clone().unwrap();
        drop(locked);
        assert!(lock_database(&node).unwrap().is_some());
    }
}
