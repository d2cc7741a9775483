//! The formats of Proxmox VE and of the kernel. Lines of another form are ignored, except where
//! their absence would hide a leftover.

use super::facts::{EndedTask, RunningTask, Volume};
use std::collections::BTreeSet;

/// The first column of `pvesm list` and of `pvesm status`.
const LIST_HEADER: &str = "Volid";
const STATUS_HEADER: &str = "Name";

/// The types of content that are volumes of guests. Others, such as backups, also have a VMID.
const GUEST_CONTENT: [&str; 2] = ["images", "rootdir"];

/// The unique ID of a task: `UPID:node:pid:pstart:starttime:type:id:user:`, numbers in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upid<'a> {
    pub(super) node: &'a str,
    pub(super) pid: u32,
    /// The start of the process, as in `/proc/PID/stat`.
    pub(super) process_start: u64,
    /// Seconds since 1970.
    pub(super) started: u64,
    pub(super) kind: &'a str,
    pub(super) id: &'a str,
}

impl<'a> Upid<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let fields: Vec<&str> = text.split(':').collect();
        let [
            "UPID",
            node,
            pid,
            process_start,
            started,
            kind,
            id,
            _user,
            "",
        ] = fields[..]
        else {
            return None;
        };
        Some(Self {
            node,
            pid: u32::from_str_radix(pid, 16).ok()?,
            process_start: u64::from_str_radix(process_start, 16).ok()?,
            started: u64::from_str_radix(started, 16).ok()?,
            kind,
            id,
        })
    }

    pub(super) fn running(&self) -> RunningTask {
        RunningTask {
            kind: self.kind.to_owned(),
            id: self.id.to_owned(),
        }
    }

    fn ended(&self, status: Option<&str>) -> EndedTask {
        EndedTask {
            kind: self.kind.to_owned(),
            id: self.id.to_owned(),
            started: self.started,
            status: status.map(str::to_owned),
        }
    }
}

/// The tasks of `/var/log/pve/tasks/active`: `UPID SAVED [ENDTIME [STATUS]]`. A task without an end
/// runs if `is_running` returns true for it. Otherwise the node stopped before it ended.
pub(super) fn active(
    text: &str,
    is_running: impl Fn(&Upid<'_>) -> bool,
) -> (Vec<RunningTask>, Vec<EndedTask>) {
    let (mut running, mut ended) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut fields = line.splitn(4, ' ');
        let Some(upid) = fields.next().and_then(Upid::parse) else {
            continue;
        };
        let (end, status) = (fields.nth(1), fields.next());
        if end.is_none() && is_running(&upid) {
            running.push(upid.running());
        } else {
            ended.push(upid.ended(status));
        }
    }
    (running, ended)
}

/// The tasks of `/var/log/pve/tasks/index`: `UPID ENDTIME STATUS`.
pub(super) fn index(text: &str) -> Vec<EndedTask> {
    let task = |line: &str| {
        let mut fields = line.splitn(3, ' ');
        let upid = fields.next().and_then(Upid::parse)?;
        Some(upid.ended(fields.nth(1)))
    };
    text.lines().filter_map(task).collect()
}

/// The running tasks of other nodes in the answer of `pvesh get /cluster/tasks`: those without an
/// end.
pub(super) fn cluster_tasks(json: &str, node: &str) -> Result<Vec<RunningTask>, String> {
    let tasks: Vec<serde_json::Value> =
        serde_json::from_str(json).map_err(|error| error.to_string())?;
    let of_others = tasks
        .iter()
        .filter(|task| task.get("endtime").is_none_or(serde_json::Value::is_null))
        .filter_map(|task| Upid::parse(task.get("upid")?.as_str()?))
        .filter(|upid| upid.node != node);
    Ok(of_others.map(|upid| upid.running()).collect())
}

/// The task whose worker has this command line: `task UPID:…`.
pub(super) fn worker(command_line: &str, pid: u32) -> Option<RunningTask> {
    let upid = Upid::parse(command_line.strip_prefix("task ")?.trim_end())?;
    (upid.pid == pid).then(|| upid.running())
}

/// The lock in a guest's configuration: in the part before the first section, because the sections
/// are snapshots.
pub(super) fn lock(configuration: &str) -> Option<String> {
    configuration
        .lines()
        .take_while(|line| !line.starts_with('['))
        .find_map(|line| line.strip_prefix("lock:"))
        .map(|lock| lock.trim().to_owned())
        .filter(|lock| !lock.is_empty())
}

/// What can be a volume ID in a guest's configuration, including its snapshots. The ID of a linked clone begins with
/// that of its base.
pub(super) fn volume_ids(configuration: &str) -> BTreeSet<String> {
    let separators = |c: char| c.is_whitespace() || matches!(c, ',' | '=');
    configuration
        .split(separators)
        .filter(|word| word.contains(':') && !word.ends_with(':'))
        .flat_map(|word| {
            let bases = word.match_indices('/').map(|(end, _)| &word[..end]);
            bases.chain([word])
        })
        .map(str::to_owned)
        .collect()
}

/// A storage in the output of `pvesm status`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) name: String,
    pub(super) active: bool,
}

/// The enabled storages in the output of `pvesm status`. The error is what is wrong with it.
pub(super) fn storages(output: &str) -> Result<Vec<Storage>, String> {
    let rows = rows(output, STATUS_HEADER)?;
    let storage = |row: Vec<&str>| match row[..] {
        [name, _, state, ..] if state != "disabled" => Some(Storage {
            name: name.to_owned(),
            active: state == "active",
        }),
        _ => None,
    };
    Ok(rows.into_iter().filter_map(storage).collect())
}

/// The guests' volumes in the output of `pvesm list`. The error is what is wrong with it.
pub(super) fn volumes(output: &str) -> Result<Vec<Volume>, String> {
    let rows = rows(output, LIST_HEADER)?;
    let volume = |row: Vec<&str>| match row[..] {
        [volid, _, content, _, owner] if GUEST_CONTENT.contains(&content) => Some(Volume {
            volid: volid.to_owned(),
            owner: owner.parse().ok()?,
        }),
        _ => None,
    };
    Ok(rows.into_iter().filter_map(volume).collect())
}

fn rows<'a>(output: &'a str, header: &str) -> Result<Vec<Vec<&'a str>>, String> {
    let mut lines = output
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    // A node without storages prints nothing.
    match lines.next() {
        None => Ok(Vec::new()),
        Some(first) if first.first() == Some(&header) => Ok(lines.collect()),
        Some(first) => Err(format!(
            "its first line is '{}', not a header that begins with '{header}'",
            first.join(" ")
        )),
    }
}

/// The paths of the bound sockets in `/proc/net/unix`. Abstract ones begin with `@`.
pub(super) fn bound_sockets(table: &str) -> BTreeSet<&str> {
    // Num RefCount Protocol Flags Type St Inode Path
    let path = |line| {
        let mut rest: &str = line;
        for _ in 0..7 {
            rest = rest.trim_start().split_once(' ')?.1;
        }
        let path = rest.trim_start();
        (!path.is_empty()).then_some(path)
    };
    table.lines().skip(1).filter_map(path).collect()
}

/// The VMID in the name of a socket that a migration creates in `/run/qemu-server` or `/run/pve`.
pub(super) fn guest_of_socket(directory: &str, name: &str) -> Option<u32> {
    let number = |text: &str| text.parse().ok();
    // With those that pve-tunnel has beside it: of its meter, and of its listener behind the API.
    let of_worker = ["", ".meter", ".lanes"]
        .iter()
        .find_map(|beside| name.strip_suffix(beside)?.strip_suffix(".mtunnel"));
    match directory {
        "/run/qemu-server" => {
            let guest = of_worker
                .or_else(|| name.strip_suffix("_nbd.migrate"))
                .or_else(|| name.strip_suffix(".migrate"))?;
            number(guest)
        }
        _ => {
            if let Some(import) = name.strip_prefix("storage-migrate-") {
                return number(import.strip_suffix(".unix")?.split('.').next()?);
            }
            let guest = name.strip_suffix(".storage").or(of_worker)?;
            number(guest.strip_prefix("ct-").unwrap_or(guest))
        }
    }
}

/// The fields of `/proc/PID/stat` that are used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) state: char,
    pub(super) parent: u32,
    pub(super) start: u64,
}

impl Stat {
    /// The second field is the process name in parentheses, which can contain any character.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }
}

/// `connector` or `listener`, if a process with this command line is one.
pub(super) fn tunnel_process(command_line: &str) -> Option<&'static str> {
    let mut words = command_line.split_ascii_whitespace();
    let program = words.next()?.rsplit('/').next()?;
    match (program, words.next()) {
        ("proxmox-websocket-tunnel", _) => Some("connector"),
        ("pve-tunnel", Some("connect" | "connector")) => Some("connector"),
        ("pve-tunnel", Some("listener")) => Some("listener"),
        _ => None,
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
