//! What was found on a node.

use serde::Serialize;
use std::path::PathBuf;

/// Everything that the decisions depend on.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The name of this node.
    pub node: String,
    /// The guests of the whole cluster.
    pub guests: Vec<Guest>,
    /// The volume IDs that configurations of guests name, in the whole cluster.
    pub referenced: Vec<String>,
    /// The running tasks of this node, and those of the other nodes of the cluster if a guest is
    /// locked.
    pub running: Vec<RunningTask>,
    /// The tasks of this node that have ended.
    pub ended: Vec<EndedTask>,
    /// The guests' volumes on the storages that this node can use.
    pub volumes: Vec<Volume>,
    /// The sockets that migrations create on this node.
    pub sockets: Vec<Socket>,
    /// Files of listeners that no listener has locked.
    pub unlocked_slots: Vec<PathBuf>,
    /// The processes of tunnels on this node.
    pub processes: Vec<Process>,
    /// What could not be checked, and why: a sentence each.
    pub unchecked: Vec<String>,
}

/// The kind of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    /// A virtual machine, which `qm` manages.
    Qemu,
    /// A container, which `pct` manages.
    Lxc,
}

/// A guest, as its configuration describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its VMID.
    pub id: u32,
    /// Its kind.
    pub kind: GuestKind,
    /// The node that has its configuration.
    pub node: String,
    /// The lock in its configuration.
    pub lock: Option<String>,
    /// Whether its process is running on this node.
    pub running: bool,
}

/// A task that is running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningTask {
    /// The task's type, such as `qmigrate`.
    pub kind: String,
    /// The guest's VMID, for tasks of a guest.
    pub id: String,
}

/// A task that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedTask {
    /// The task's type, such as `qmigrate`.
    pub kind: String,
    /// The guest's VMID, for tasks of a guest.
    pub id: String,
    /// Seconds since 1970, when it was started.
    pub started: u64,
    /// `OK`, `WARNINGS: N` or an error; none if the node stopped before the task ended.
    pub status: Option<String>,
}

/// What a task did with a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It moved the guest to another node.
    Source,
    /// It received the guest from another cluster.
    Target,
    /// It created the guest, by a restore, for example.
    Creation,
}

impl Role {
    /// The role of a task of this type; none if the type sets neither of the locks `create` and
    /// `migrate`.
    #[must_use]
    pub fn of(kind: &str) -> Option<Self> {
        match kind {
            "qmigrate" | "vzmigrate" => Some(Self::Source),
            "qmtunnel" | "vzmtunnel" => Some(Self::Target),
            "qmcreate" | "qmrestore" | "vzcreate" | "vzrestore" => Some(Self::Creation),
            _ => None,
        }
    }
}

/// A volume of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its volume ID, such as `local-lvm:vm-100-disk-0`.
    pub volid: String,
    /// The VMID of its owner.
    pub owner: u32,
}

/// A socket in the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Its path.
    pub path: PathBuf,
    /// The VMID in its name.
    pub guest: u32,
    /// Whether a process has it open.
    pub in_use: bool,
}

/// A connector or a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its process ID.
    pub pid: u32,
    /// The process ID of its parent.
    pub parent: u32,
    /// `connector` or `listener`.
    pub name: &'static str,
    /// Whether a signal has stopped it, so that it does not react to SIGTERM.
    pub stopped: bool,
}
