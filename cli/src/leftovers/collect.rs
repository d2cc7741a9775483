//! Collects the facts: reads files, and runs programs of Proxmox VE.

use super::facts::{Facts, Guest, GuestKind, Process, RunningTask, Socket, Volume};
use super::parse::{self, Stat, Storage, Upid};
use crate::opened_file;
use crate::program::{Finished, ProgramError, clean_command, run_checked};
use pve_tunnel::one_line;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Time limit of each program. A storage that does not answer must not block the rest.
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);

/// The part of a task log that is read, from its end, in bytes: several thousand tasks. Proxmox VE
/// starts a new file long before.
const LOG_TAIL: u64 = 1 << 20;

/// The largest file that is read completely, in bytes. Files in pmxcfs have at most 1 MiB.
const MAX_FILE: u64 = 4 << 20;

/// The directories of the sockets that a migration creates.
const SOCKET_DIRECTORIES: [&str; 2] = ["/run/qemu-server", "/run/pve"];

/// Why nothing could be checked.
#[derive(Debug, Error)]
pub enum CollectError {
    /// Other users may read neither the configurations nor the processes.
    #[error("only root can look for leftovers: run this as root")]
    NotRoot,
    /// The cluster file system is not there.
    #[error(
        "cannot read {}: {cause}. Is this a Proxmox VE node, and is pve-cluster running?", .path.display()
    )]
    NoCluster {
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
}

/// Collects the facts of the machine with this root directory: `/`, or a directory tree with the
/// same layout.
///
/// # Errors
/// Nothing could be checked. If a part could not be checked, the facts contain the reason.
pub fn collect(root: &Path) -> Result<Facts, CollectError> {
    if root == Path::new("/") && !nix::unistd::geteuid().is_root() {
        return Err(CollectError::NotRoot);
    }
    let machine = Machine { root };
    let mut facts = Facts {
        node: machine.node_name()?,
        ..Facts::default()
    };
    // A task that ends while this runs first removes its locks and volumes. A task that starts first
    // sets the lock. So the tasks are read before and after the rest, and volumes are read before
    // configurations.
    machine.tasks(&mut facts);
    machine.volumes(&mut facts);
    let every_guest = machine.guests(&mut facts)?;
    if !every_guest && !facts.volumes.is_empty() {
        // One of them may belong to a guest that was not read.
        facts.volumes.clear();
        facts
            .unchecked
            .push("volumes, because not every guest of the cluster could be read".to_owned());
    }
    machine.sockets(&mut facts);
    machine.slots(&mut facts);
    facts.ended.clear();
    machine.tasks(&mut facts);
    machine.tasks_of_other_nodes(&mut facts);
    Ok(facts)
}

struct Machine<'a> {
    root: &'a Path,
}

impl Machine<'_> {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// pmxcfs has a link to the directory of this node.
    fn node_name(&self) -> Result<String, CollectError> {
        let path = self.at("/etc/pve/local");
        let target = fs::read_link(&path).map_err(|cause| CollectError::NoCluster {
            path: path.clone(),
            cause,
        })?;
        let name = target.file_name().unwrap_or(target.as_os_str());
        Ok(name.to_string_lossy().into_owned())
    }

    /// Adds the running tasks and the ended ones, of this node.
    fn tasks(&self, facts: &mut Facts) {
        let path = self.at("/var/log/pve/tasks/active");
        let text = or_unchecked(&path, read_if_present(&path), facts);
        let (running, mut ended) = parse::active(&text, |upid| self.is_running(upid));
        facts.running.extend(running);
        for name in ["index.1", "index"] {
            let path = self.at(&format!("/var/log/pve/tasks/{name}"));
            let text = or_unchecked(&path, tail(&path), facts);
            ended.extend(parse::index(&text));
        }
        facts.ended.append(&mut ended);
        let processes = self.processes();
        let workers = processes.iter();
        facts
            .running
            .extend(workers.filter_map(|(pid, line)| parse::worker(line, *pid)));
        facts.processes = processes
            .iter()
            .filter_map(|(pid, line)| {
                let stat = self.stat(*pid)?;
                Some(Process {
                    pid: *pid,
                    parent: stat.parent,
                    name: parse::tunnel_process(line)?,
                    stopped: stat.state == 'T',
                })
            })
            .collect();
    }

    fn is_running(&self, upid: &Upid<'_>) -> bool {
        self.stat(upid.pid)
            .is_some_and(|stat| stat.start == upid.process_start && stat.state != 'Z')
    }

    fn stat(&self, pid: u32) -> Option<Stat> {
        let text = fs::read(self.at(&format!("/proc/{pid}/stat"))).ok()?;
        Stat::parse(&String::from_utf8_lossy(&text))
    }

    /// Each process, with its command line.
    fn processes(&self) -> Vec<(u32, String)> {
        let entries = fs::read_dir(self.at("/proc")).into_iter().flatten();
        let process = |entry: fs::DirEntry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // Fails if the process has ended.
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            Some((pid, line))
        };
        entries.flatten().filter_map(process).collect()
    }

    /// A guest that has moved inside the cluster is locked here until the task of the other node
    /// ends.
    fn tasks_of_other_nodes(&self, facts: &mut Facts) {
        let here = |guest: &&Guest| guest.node == facts.node && guest.lock.is_some();
        let others = names(&self.at("/etc/pve/nodes")).unwrap_or_default();
        let is_alone = others.iter().all(|name| *name == facts.node);
        if is_alone || facts.guests.iter().find(here).is_none() {
            return;
        }
        let arguments = ["get", "/cluster/tasks", "--output-format", "json"];
        let tasks = self
            .run("/usr/bin/pvesh", &arguments)
            .and_then(|json| parse::cluster_tasks(&json, &facts.node));
        match tasks {
            Ok(tasks) => facts.running.extend(tasks),
            Err(cause) => {
                // Without them, the guest may be in use.
                let locked: Vec<RunningTask> = facts
                    .guests
                    .iter()
                    .filter(here)
                    .map(|guest| RunningTask {
                        kind: "unknown".to_owned(),
                        id: guest.id.to_string(),
                    })
                    .collect();
                facts.running.extend(locked);
                facts.unchecked.push(format!(
                    "locked guests, because a task may be running for them on another node: {cause}"
                ));
            }
        }
    }

    /// Returns whether every configuration could be read.
    fn guests(&self, facts: &mut Facts) -> Result<bool, CollectError> {
        let nodes = self.at("/etc/pve/nodes");
        let found = names(&nodes).map_err(|cause| CollectError::NoCluster {
            path: nodes.clone(),
            cause,
        })?;
        if !found.contains(&facts.node) {
            // The file system of the cluster is not mounted, so volumes would seem to have no guest.
            return Err(CollectError::NoCluster {
                path: nodes.join(&facts.node),
                cause: io::ErrorKind::NotFound.into(),
            });
        }
        let table = self.unix_sockets(facts);
        let bound = parse::bound_sockets(&table);
        let before = facts.unchecked.len();
        for node in found {
            for (kind, folder) in [(GuestKind::Qemu, "qemu-server"), (GuestKind::Lxc, "lxc")] {
                let folder = self.at(&format!("/etc/pve/nodes/{node}/{folder}"));
                let listed = match names(&folder) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                    listed => listed,
                };
                for name in or_unchecked(&folder, listed, facts) {
                    let Some(id) = name.strip_suffix(".conf").and_then(|id| id.parse().ok()) else {
                        continue;
                    };
                    let path = folder.join(&name);
                    // If it has gone, its guest may have moved to a node whose guests were read before.
                    let text = or_unchecked(&path, read(&path), facts);
                    facts.referenced.extend(parse::volume_ids(&text));
                    facts.guests.push(Guest {
                        id,
                        kind,
                        node: node.clone(),
                        lock: parse::lock(&text),
                        running: match kind {
                            GuestKind::Qemu => self.qemu_is_running(id),
                            GuestKind::Lxc => {
                                bound.contains(format!("@/var/lib/lxc/{id}/command").as_str())
                            }
                        },
                    });
                }
            }
        }
        facts.guests.sort_by_key(|guest| guest.id);
        Ok(facts.unchecked.len() == before)
    }

    /// The PID file can be older than a restart of the node. A QEMU has its VMID as its ID.
    fn qemu_is_running(&self, id: u32) -> bool {
        let file = self.at(&format!("/run/qemu-server/{id}.pid"));
        let pid = fs::read_to_string(file).unwrap_or_default();
        let line = fs::read(self.at(&format!("/proc/{}/cmdline", pid.trim()))).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let words: Vec<&str> = line.split('\0').collect();
        words
            .windows(2)
            .any(|pair| pair == ["-id", &id.to_string()])
    }

    fn unix_sockets(&self, facts: &mut Facts) -> String {
        let path = self.at("/proc/net/unix");
        or_unchecked(&path, read(&path), facts)
    }

    fn sockets(&self, facts: &mut Facts) {
        let table = self.unix_sockets(facts);
        // Without the table, a socket in use would look stale.
        if table.is_empty() {
            return;
        }
        let bound = parse::bound_sockets(&table);
        for directory in SOCKET_DIRECTORIES {
            let path = self.at(directory);
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
                let name = entry.file_name().to_string_lossy().into_owned();
                let guest = parse::guest_of_socket(directory, &name);
                let Some(guest) = guest.filter(|_| is_socket) else {
                    continue;
                };
                let path = entry.path();
                facts.sockets.push(Socket {
                    in_use: bound.contains(path.to_string_lossy().as_ref()),
                    path,
                    guest,
                });
            }
        }
        facts
            .sockets
            .sort_by(|one, other| one.path.cmp(&other.path));
    }

    fn slots(&self, facts: &mut Facts) {
        let directory = self.at(pve_tunnel::listener::SLOTS);
        match pve_tunnel::listener::unlocked_slots(&directory) {
            Ok(slots) => facts.unlocked_slots = slots,
            Err(cause) => facts.unchecked.push(format!(
                "listeners, because the files in {} cannot be read: {cause}",
                directory.display()
            )),
        }
    }

    fn volumes(&self, facts: &mut Facts) {
        let content = ["status", "--enabled", "1", "--content", "images,rootdir"];
        let storages = self
            .run("/usr/sbin/pvesm", &content)
            .and_then(|output| parse::storages(&output));
        let storages = match storages {
            Ok(storages) => storages,
            Err(cause) => return facts.unchecked.push(format!("volumes: {cause}")),
        };
        for storage in storages {
            match self.volumes_of(&storage) {
                Ok(volumes) => facts.volumes.extend(volumes),
                Err(cause) => {
                    let name = &storage.name;
                    facts
                        .unchecked
                        .push(format!("volumes of storage '{name}': {cause}"));
                }
            }
        }
        facts
            .volumes
            .sort_by(|one, other| one.volid.cmp(&other.volid));
        facts.volumes.dedup();
    }

    fn volumes_of(&self, storage: &Storage) -> Result<Vec<Volume>, String> {
        if !storage.active {
            return Err("the storage is not active".to_owned());
        }
        let output = self.run("/usr/sbin/pvesm", &["list", &storage.name])?;
        parse::volumes(&output)
    }

    /// The output of a program of Proxmox VE. The error is a sentence.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let path = self.at(program);
        let mut command = clean_command(&path.to_string_lossy());
        let finished = run_checked(command.args(arguments), PROGRAM_LIMIT)
            .and_then(Finished::complete)
            .map_err(|error: ProgramError| one_line(&error.to_string()))?;
        Ok(finished.stdout)
    }
}

/// The names in a directory, sorted.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<String>>>()?;
    names.sort();
    Ok(names)
}

fn read(path: &Path) -> io::Result<String> {
    let bytes = opened_file::read(path, MAX_FILE)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("more than {MAX_FILE} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read_if_present(path: &Path) -> io::Result<String> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        result => result,
    }
}

/// The end of a file, from the beginning of a line; empty if there is no such file.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The text, or an empty one and a note that the file could not be checked.
fn or_unchecked<T: Default>(path: &Path, content: io::Result<T>, facts: &mut Facts) -> T {
    content.unwrap_or_else(|cause| {
        let note = format!("{} cannot be read: {cause}", path.display());
        if !facts.unchecked.contains(&note) {
            facts.unchecked.push(note);
        }
        T::default()
    })
}
