//! Whether running daemons have our library loaded, which is what they have of us.

use super::Node;
use nix::errno::Errno;
use serde::Serialize;
use std::fs;
use std::io::{self, BufRead, BufReader};

/// The daemons in whose processes migrations run, at the source and at the target.
const DAEMONS: [&str; 1] = ["pvedaemon"];

/// The library's file, whatever its version.
const LIBRARY: &str = "/libpve_tunnel.so";

/// What the kernel puts behind the name of a file that is mapped and has been replaced.
const DELETED: &str = " (deleted)";

/// Longest name that the kernel keeps of a process.
const MAX_NAME: usize = 15;

/// A daemon's main process and its workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DaemonStatus {
    /// Its name.
    pub name: &'static str,
    /// The main process; none if it is not running.
    pub pid: Option<u32>,
    /// How many processes there are, workers included.
    pub processes: usize,
    /// How many of them have the library.
    pub current: usize,
    /// How many have one that has been replaced since.
    pub outdated: usize,
    /// How many could not be looked into.
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
            // It has ended meanwhile.
            Err(cause) if gone(&cause) => continue,
            Err(_) => daemon.unreadable += 1,
        }
        daemon.processes += 1;
    }
    daemon
}

/// The process that the daemon's file names, unless that is from before a reboot or a crash.
fn main_process(node: &Node, name: &str) -> Option<u32> {
    let file = node.at(&format!("/run/{name}.pid"));
    let pid: u32 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let running = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let kept = &name[..name.len().min(MAX_NAME)];
    running.starts_with(kept).then_some(pid)
}

fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

/// The fourth field of `/proc/PID/stat`; the second is a name in brackets, with anything in it.
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

fn gone(cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::NotFound || cause.raw_os_error() == Some(Errno::ESRCH as i32)
}
