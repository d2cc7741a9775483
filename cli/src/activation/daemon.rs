//! Whether running daemons have loaded the library of pve-tunnel.
//!
//! Overlay and seam load the library. A daemon that has reloaded since pve-tunnel was switched on
//! has therefore mapped it.

use super::Node;
use nix::errno::Errno;
use serde::Serialize;
use std::fs;
use std::io::{self, BufRead, BufReader};

/// The daemons whose processes run migrations, on the source and on the target.
const DAEMONS: [&str; 1] = ["pvedaemon"];

/// The beginning of the library's file name, which its version follows.
const LIBRARY: &str = "/libpve_tunnel.so";

/// The kernel appends this to the name of a mapped file that was removed or replaced.
const DELETED: &str = " (deleted)";

/// The longest process name that the kernel stores, in bytes.
const MAX_NAME: usize = 15;

/// The processes of a daemon: its main process and its workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DaemonStatus {
    /// The daemon's name.
    pub name: &'static str,
    /// The ID of the main process; none if the daemon is not running.
    pub pid: Option<u32>,
    /// Number of processes.
    pub processes: usize,
    /// Number of processes that have loaded the installed library.
    pub current: usize,
    /// Number of processes that have loaded a library that was replaced since.
    pub outdated: usize,
    /// Number of processes whose mapped files could not be read.
    pub unreadable: usize,
}

enum Library {
    None,
    Current,
    Outdated,
}

pub(super) fn daemons(node: &Node) -> Vec<DaemonStatus> {
    DAEMONS.iter().map(|name| daemon(node, name)).collect()
}

/// Whether at least one of the daemons is running.
pub(super) fn any_is_running(node: &Node) -> bool {
    DAEMONS
        .iter()
        .any(|name| main_process(node, name).is_some())
}

fn daemon(node: &Node, name: &'static str) -> DaemonStatus {
    let mut daemon = DaemonStatus {
        name,
        pid: main_process(node, name),
        processes: 0,
        current: 0,
        outdated: 0,
        unreadable: 0,
    };
    let Some(pid) = daemon.pid else {
        return daemon;
    };
    for process in std::iter::once(pid).chain(children(pid)) {
        match library(process) {
            Ok(Library::None) => {}
            Ok(Library::Current) => daemon.current += 1,
            Ok(Library::Outdated) => daemon.outdated += 1,
            // The process has ended in the meantime.
            Err(cause) if has_ended(&cause) => continue,
            Err(_) => daemon.unreadable += 1,
        }
        daemon.processes += 1;
    }
    daemon
}

/// The process that the daemon's PID file names. None if that process has another name: then the
/// file is older than a reboot or a crash.
fn main_process(node: &Node, name: &str) -> Option<u32> {
    let file = node.at(&format!("/run/{name}.pid"));
    let pid: u32 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let running = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let stored = &name[..name.len().min(MAX_NAME)];
    running.starts_with(stored).then_some(pid)
}

fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

/// The fourth field of `/proc/PID/stat`. The second field is the process name in parentheses, which
/// can contain any character.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn library(pid: u32) -> io::Result<Library> {
    let maps = BufReader::new(fs::File::open(format!("/proc/{pid}/maps"))?);
    let mut found = Library::None;
    for line in maps.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if !line.contains(LIBRARY) {
            continue;
        }
        if line.ends_with(DELETED) {
            return Ok(Library::Outdated);
        }
        found = Library::Current;
    }
    Ok(found)
}

fn has_ended(cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::NotFound || cause.raw_os_error() == Some(Errno::ESRCH as i32)
}
