//! The ports that Proxmox VE has reserved on this node.
//!
//! `PVE::Tools::next_migrate_port` tests a port by binding it, closes it again, and writes it to a
//! file, under a lock. Its caller binds the port seconds later; until then, other processes that
//! follow this convention do not use the port. The file has one line for each port: the port, white
//! space, and the time of the reservation in seconds since 1970. A reservation is valid for 5
//! seconds.
//!
//! A port is bound here while the lock is held, and stays bound. No entry is written for it: Proxmox
//! VE binds each port that it tests, on one address or on all of them, so it finds the port in use. An
//! entry would keep the port from others for up to 5 seconds after its last use, and fifty migrations
//! within 5 seconds would then find no port.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::NetworkError;
use crate::scalar;

/// Seconds for which a reservation is valid.
const VALID: u64 = 5;

/// Most bytes of the file that are read. All ports that exist have fewer.
const MAX_FILE: u64 = 2 << 20;

/// How long another process may hold the lock. Proxmox VE holds it for milliseconds. The worker
/// waits 10 seconds for its listener.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between two attempts to lock.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Where the reservations are.
#[derive(Debug, Clone)]
pub struct Reservations {
    lock: PathBuf,
    file: PathBuf,
    /// The lock is created if it does not exist.
    create: bool,
    timeout: Duration,
}

impl Reservations {
    /// Those of Proxmox VE on this node. On other systems, where neither the cluster's file system
    /// nor the lock exists, there are none.
    pub fn of_this_node() -> Self {
        Self {
            lock: "/var/lock/pve-ports.lck".into(),
            file: "/var/tmp/pve-reserved-ports".into(),
            // The directory of the lock is empty after the node's start.
            create: Path::new("/etc/pve").is_dir(),
            timeout: LOCK_TIMEOUT,
        }
    }

    /// Those with this lock, which is created, and this file.
    pub fn at(lock: &Path, file: &Path, timeout: Duration) -> Self {
        Self {
            lock: lock.to_owned(),
            file: file.to_owned(),
            create: true,
            timeout,
        }
    }

    /// Locks and reads them. Without a lock to take there are none.
    pub(super) fn lock(&self) -> Result<Reserved, NetworkError> {
        let failed = |cause: String| NetworkError::PortLock {
            path: self.lock.display().to_string(),
            cause,
        };
        let opened = match open_lock(&self.lock, self.create) {
            Ok(opened) => opened,
            // Only root runs migrations of Proxmox VE, and only root can read and write its files.
            Err(error) if is_absent(&error) => return Ok(Reserved::none()),
            Err(error) => return Err(failed(error.to_string())),
        };
        let lock = wait_for(opened, self.timeout).map_err(|error| {
            failed(match error {
                Errno::EWOULDBLOCK => {
                    format!("another process has held it for {:?}", self.timeout)
                }
                other => other.desc().to_owned(),
            })
        })?;
        // A file that another user has placed there has no reservation of Proxmox VE, which replaces
        // the file with its own.
        let text = read(&self.file).unwrap_or_default();
        Ok(Reserved {
            ports: valid_ports(&text, seconds()),
            _lock: Some(lock),
        })
    }
}

/// The valid reservations, locked until they are dropped.
pub(super) struct Reserved {
    ports: Vec<u64>,
    _lock: Option<Flock<File>>,
}

impl Reserved {
    fn none() -> Self {
        Self {
            ports: Vec::new(),
            _lock: None,
        }
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.ports.contains(&port.into())
    }
}

/// The ports of the entries that are still valid. Other lines are ignored.
fn valid_ports(text: &[u8], now: u64) -> Vec<u64> {
    let entry = |line: &[u8]| {
        let line = std::str::from_utf8(line).ok()?;
        let (port, time) = line.split_once(|c: char| c.is_ascii_whitespace())?;
        // A time in the future is valid for Proxmox VE too.
        let (port, time) = (digits(port)?, digits(time)?);
        (time.saturating_add(VALID) > now).then_some(port)
    };
    text.split(|byte| *byte == b'\n')
        .filter_map(entry)
        .collect()
}

fn digits(text: &str) -> Option<u64> {
    let text = match text.trim_start_matches('0') {
        "" if !text.is_empty() => "0",
        text => text,
    };
    scalar::decimal_text(text)
}

fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Opens the lock as Proxmox VE does. Its directory may be writable by every user, so a symbolic
/// link is not followed, and neither is a FIFO opened.
fn open_lock(path: &Path, create: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(create)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

fn is_absent(error: &io::Error) -> bool {
    let denied = matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    );
    error.kind() == io::ErrorKind::NotFound || (denied && !nix::unistd::geteuid().is_root())
}

fn wait_for(mut file: File, limit: Duration) -> Result<Flock<File>, Errno> {
    let deadline = Instant::now() + limit;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file = same,
            Err((same, Errno::EINTR)) => file = same,
            Err((_, error)) => return Err(error),
        }
        sleep(LOCK_PAUSE);
    }
}

/// Reads the file if it belongs to root or to the user of this process. Its directory is writable by
/// every user: a file of another user, a symbolic link and a FIFO are not read.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    let owned = [0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid());
    if !metadata.is_file() || !owned {
        return Err(io::Error::other("it is not a file of root"));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn valid_reservations_are_read_and_foreign_text_is_ignored() {
        let now = 1_000_000;
        let text = "60000 1000000\n60001 999996\n60002 999995\n5900\t1000000\n60003 1000009\n\
             60004  1000000\n 60005 1000000\n60006 1000000 \n60007\n\nsome text\n60008 -1\n\
             60009 99999999999999999999999\n060010 1000000\n60011 1000000";
        let ports = valid_ports(text.as_bytes(), now);
        assert_eq!(ports, [60000, 60001, 5900, 60003, 60010, 60011]);
        assert!(valid_ports(b"\xff\xfe 1\n\0", now).is_empty());
    }
}
