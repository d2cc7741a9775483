//! How many listeners a node has at one time, in total and for each user.
//!
//! A listener keeps a port of the range that Proxmox VE uses for its own migrations. A user of the
//! API needs no privilege on `/` to open one. So a part of the ports always remains for others.
//!
//! Listeners are processes without a common parent. Each holds the lock of one file, a *slot*, which
//! contains the name of its user. The kernel releases the lock when the process ends, however it
//! ends. The ports belong to a network namespace, and so do the slots.

use crate::network::PORTS;
use crate::scalar;
use crate::system::run_directory;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Writable only for root, and empty after the node's start.
pub const DIRECTORY: &str = "/run/pve-tunnel/listeners";

/// The file in [`DIRECTORY`] whose lock a listener holds while it chooses its slot.
const CHOICE_LOCK: &str = "lock";

/// Most listeners of a node: half of the ports.
const MAX_OF_NODE: usize = (*PORTS.end() - *PORTS.start()) as usize / 2 + 1;

/// Most listeners of one user of the API, with all of its tokens. A migration has one.
const MAX_OF_USER: usize = 8;

/// Longest name of a user that is read from a slot, in bytes. Proxmox VE's are at most 64.
const MAX_USER: u64 = 1024;

/// How long other listeners may take to choose their slots. Each takes milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause between two attempts to lock.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why there is no slot.
#[derive(Debug, Error)]
pub enum QuotaError {
    /// The user has as many listeners as one user may have.
    #[error(
        "user '{0}' already has {MAX_OF_USER} listeners on this node: wait until one of these migrations has ended"
    )]
    User(String),
    /// The node has as many listeners as it may have.
    #[error(
        "this node already has {MAX_OF_NODE} listeners, and its other ports are for migrations inside its cluster: wait until one of the migrations from other clusters has ended"
    )]
    Node,
    /// The slots cannot be used.
    #[error("cannot count the listeners of this node in '{DIRECTORY}': {0}")]
    Slots(io::Error),
}

/// A slot, which is free again when it is dropped, and when the process ends.
pub(super) struct Slot {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The next listener with this slot has a new file. A failure leaves an unlocked one.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes a slot for a listener of this user. None if this process may not use the directory, because
/// it does not belong to root: then it is not the worker of a node.
pub(super) fn take(directory: &Path, user: Option<&str>) -> Result<Option<Slot>, QuotaError> {
    // A token has its own name behind that of its user.
    let user = user.map(|user| user.split('!').next().unwrap_or(user));
    match take_from(directory, user) {
        Err(QuotaError::Slots(error)) if run_directory::is_denied(&error) => Ok(None),
        result => result.map(Some),
    }
}

fn take_from(directory: &Path, user: Option<&str>) -> Result<Slot, QuotaError> {
    run_directory::create(directory).map_err(QuotaError::Slots)?;
    let _choosing = wait_for(&directory.join(CHOICE_LOCK)).map_err(QuotaError::Slots)?;

    let namespace = std::fs::metadata("/proc/thread-self/ns/net")
        .map_err(QuotaError::Slots)?
        .ino();
    let path = |number: usize| directory.join(format!("{namespace}-{number}"));
    let (mut free, mut used, mut of_user) = (None, 0, 0);
    for number in 1..=MAX_OF_NODE {
        match holder(&path(number)).map_err(QuotaError::Slots)? {
            Some(holder) => {
                used += 1;
                of_user += usize::from(user.is_some_and(|user| user.as_bytes() == holder));
            }
            None => free = free.or(Some(number)),
        }
    }
    if let Some(user) = user.filter(|_| of_user >= MAX_OF_USER) {
        return Err(QuotaError::User(scalar::as_given(user)));
    }
    match free {
        Some(number) if used < MAX_OF_NODE => {
            occupy(path(number), user.unwrap_or_default()).map_err(QuotaError::Slots)
        }
        _ => Err(QuotaError::Node),
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// The user of the listener that has this slot; none if the slot is free.
fn holder(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match open(path, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        // A listener that was killed has left its file.
        Ok(_) => Ok(None),
        Err((file, Errno::EWOULDBLOCK)) => read(file).map(Some),
        Err((_, error)) => Err(error.into()),
    }
}

fn occupy(path: PathBuf, user: &str) -> io::Result<Slot> {
    // The file is complete and locked when it gets its name.
    let new = path.with_extension("new");
    let file = open(&new, true)?;
    file.set_len(0)?;
    let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| io::Error::from(error))?;
    lock.write_all(user.as_bytes())?;
    std::fs::rename(&new, &path)?;
    Ok(Slot { path, _lock: lock })
}

fn read(file: File) -> io::Result<Vec<u8>> {
    let mut user = Vec::new();
    file.take(MAX_USER).read_to_end(&mut user)?;
    Ok(user)
}

/// The files that listeners which were killed have left in the directory of slots: no process holds
/// their locks. None if there is no directory. Removes nothing.
///
/// # Errors
/// The directory or a file cannot be read, or listeners choose their slots for too long.
pub fn unlocked(directory: &Path) -> io::Result<Vec<PathBuf>> {
    // A listener must not take the lock of this function for that of another listener.
    let _choosing = match wait_for(&directory.join(CHOICE_LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        lock => lock?,
    };
    let mut unlocked = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.ends_with(CHOICE_LOCK) {
            continue;
        }
        // A listener that ends removes its file at any time.
        if path.exists() && holder(&path)?.is_none() && path.exists() {
            unlocked.push(path);
        }
    }
    unlocked.sort();
    Ok(unlocked)
}

/// Locks the choice of slots.
fn wait_for(path: &Path) -> io::Result<Flock<File>> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    let mut file = open(path, true)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < deadline => {
                file = same;
            }
            Err((_, error)) => return Err(error.into()),
        }
        sleep(LOCK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_user_has_a_bound_and_leaves_slots_for_others() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("listeners");
        let take = |user: &str| take(&directory, Some(user));
        let mut slots: Vec<_> = (0..MAX_OF_USER)
            .map(|number| {
                // Tokens of one user share its slots.
                let token = format!("mover@pve!token{number}");
                take(&token).unwrap().unwrap()
            })
            .collect();
        let error = take("mover@pve").err().unwrap().to_string();
        assert!(
            error.starts_with("user 'mover@pve' already has 8 listeners on this node: wait"),
            "{error}"
        );
        let other = take("other@pve").unwrap();
        assert!(other.is_some());
        let files = || std::fs::read_dir(&directory).unwrap().count();
        assert_eq!(files(), 8 + 1 + 1, "the slots and the lock");
        // The end of one listener makes room for the next one of the same user.
        slots.pop();
        assert!(take("mover@pve!new").unwrap().is_some());
        let mode = std::fs::metadata(&directory).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn only_files_without_a_listener_are_unlocked() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("listeners");
        assert_eq!(unlocked(&directory).unwrap(), Vec::<PathBuf>::new());
        let slot = take(&directory, Some("mover@pve")).unwrap();
        assert_eq!(unlocked(&directory).unwrap(), Vec::<PathBuf>::new());
        let left = directory.join("4711-3");
        std::fs::write(&left, "mover@pve").unwrap();
        assert_eq!(unlocked(&directory).unwrap(), [left]);
        assert!(slot.is_some(), "the slot is still held");
    }

    #[test]
    fn a_node_keeps_half_of_its_ports_for_its_own_cluster() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let slots: Vec<_> = (0..25)
            .map(|number| take(directory, Some(&format!("user{number}@pve"))).unwrap())
            .collect();
        assert_eq!(slots.len(), MAX_OF_NODE);
        for user in [Some("root@pam"), None] {
            let error = take(directory, user).err().unwrap().to_string();
            assert!(
                error.starts_with("this node already has 25 listeners"),
                "{error}"
            );
        }
        drop(slots);
        assert!(take(directory, None).unwrap().is_some());
    }
}
