//! What of the facts is a leftover, and what removes it.

use super::facts::{EndedTask, Facts, Guest, GuestKind, Process, Role, Socket, Volume};
use crate::shell::quoted;
use pve_tunnel::one_line;
use serde::Serialize;
use std::collections::BTreeSet;

/// The locks of a guest that a migration sets.
const CREATE: &str = "create";
const MIGRATE: &str = "migrate";

/// Tasks that have a guest's VMID and do not change the guest: consoles, which can stay open for
/// days.
const CONSOLES: [&str; 5] = [
    "vncproxy",
    "vncshell",
    "spiceproxy",
    "spiceshell",
    "termproxy",
];

/// Tasks that lock a new guest by `create`. Their VMID is that of the original.
const CLONES: [&str; 2] = ["qmclone", "vzclone"];

/// The parent of a process whose own parent has ended.
const INIT: u32 = 1;

/// The result, which `leftovers --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftovers {
    /// The name of the node.
    pub node: String,
    /// What was found.
    pub leftovers: Vec<Leftover>,
    /// Guests for which a task is running. Nothing of them is a leftover yet.
    pub in_progress: Vec<InProgress>,
    /// What could not be checked, and why: a sentence each.
    pub unchecked: Vec<String>,
}

/// A guest for which a task is running.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct InProgress {
    /// The guest's VMID.
    pub guest: u32,
    /// The task's type, such as `qmigrate`.
    pub task: String,
}

/// What an interrupted migration may have left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// Its kind.
    pub kind: Kind,
    /// The VMID of the guest; none if it has none.
    pub guest: Option<u32>,
    /// What was found, as a sentence.
    pub found: String,
    /// What it means, and what to check, as sentences.
    pub meaning: String,
    /// What removes it. With more than one, the conditions show which.
    pub remedies: Vec<Remedy>,
}

/// The kind of a leftover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A guest that is locked, and for which no task is running.
    LockedGuest,
    /// A volume of a guest that does not exist.
    Volume,
    /// A socket that no process has open.
    Socket,
    /// The file of a listener that has ended.
    ListenerFile,
    /// A connector or listener whose parent has ended.
    Process,
}

/// Commands that remove a leftover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// The condition under which they are right; none if they always are.
    pub condition: Option<String>,
    /// The commands, in this order, quoted for a shell.
    pub commands: Vec<String>,
}

/// Decides what of the facts is a leftover.
#[must_use]
pub fn decide(facts: &Facts) -> Leftovers {
    let busy: BTreeSet<InProgress> = facts
        .running
        .iter()
        .filter(|task| !CONSOLES.contains(&task.kind.as_str()))
        .filter_map(|task| {
            Some(InProgress {
                guest: task.id.parse().ok()?,
                task: task.kind.clone(),
            })
        })
        .collect();
    let is_free = |guest: u32| busy.iter().all(|each| each.guest != guest);
    let exists = |id: u32| facts.guests.iter().any(|guest| guest.id == id);

    let clone = busy.iter().find(|each| CLONES.contains(&&*each.task));
    let is_cloned = |guest: &Guest| clone.is_some() && guest.lock.as_deref() == Some(CREATE);

    let mut leftovers = Vec::new();
    let here = |guest: &&Guest| guest.node == facts.node && is_free(guest.id);
    let (cloned, guests): (Vec<_>, Vec<_>) = facts
        .guests
        .iter()
        .filter(here)
        .partition(|guest| is_cloned(guest));
    leftovers.extend(
        guests
            .into_iter()
            .filter_map(|guest| locked_guest(guest, &facts.ended)),
    );
    let cloned: Vec<String> = cloned.into_iter().map(|guest: &Guest| {
        format!(
            "guest {}, which is locked ({CREATE}): a clone of another guest is running ({}), which \
             may create it. Run this again when it has ended.",
            guest.id,
            clone.map_or("unknown", |clone| &clone.task)
        )
    }).collect();
    let volumes = facts.volumes.iter().filter(|volume| {
        is_free(volume.owner) && !exists(volume.owner) && !is_referenced(facts, &volume.volid)
    });
    // A terminal would show the command of such a volume as another one.
    let (plain, unprintable): (Vec<_>, Vec<_>) =
        volumes.partition(|volume| one_line(&volume.volid) == volume.volid);
    leftovers.extend(plain.into_iter().map(orphan));
    let unprintable = unprintable.into_iter().map(|volume| {
        format!(
            "a volume of guest {}, whose name has characters that cannot be printed: {}",
            volume.owner,
            one_line(&volume.volid)
        )
    });
    let sockets = facts.sockets.iter();
    leftovers.extend(
        sockets
            .filter(|socket| !socket.in_use && is_free(socket.guest))
            .map(stale_socket),
    );
    leftovers.extend(facts.unlocked_slots.iter().map(|path| {
        Leftover {
            kind: Kind::ListenerFile,
            guest: None,
            found: format!("No listener holds the lock of {}.", path.display()),
            meaning:
                "The listener was killed. The file is harmless: a later listener uses it again."
                    .to_owned(),
            remedies: vec![remove_file(path)],
        }
    }));
    let processes = facts.processes.iter();
    leftovers.extend(
        processes
            .filter(|process| process.parent == INIT)
            .map(orphaned_process),
    );
    Leftovers {
        node: facts.node.clone(),
        leftovers,
        in_progress: busy
            .into_iter()
            .filter(|each| Role::of(&each.task).is_some())
            .collect(),
        unchecked: facts
            .unchecked
            .iter()
            .cloned()
            .chain(cloned)
            .chain(unprintable)
            .collect(),
    }
}

/// Whether a guest's configuration names the volume, on any storage: two storages can have the same volumes.
fn is_referenced(facts: &Facts, volid: &str) -> bool {
    let (_, name) = volid.split_once(':').unwrap_or(("", volid));
    let mut referenced = facts.referenced.iter();
    referenced.any(|id| id == volid || id.split_once(':').is_some_and(|(_, other)| other == name))
}

/// A guest with a lock of a migration, for which no task is running.
fn locked_guest(guest: &Guest, ended: &[EndedTask]) -> Option<Leftover> {
    let lock = guest.lock.as_deref()?;
    let last = last_task(guest.id, lock, ended);
    let (meaning, remedies) = match (lock, last.map(|(role, task)| (role, task.ok()))) {
        (CREATE, Some((Role::Creation, _))) => (
            "The creation or the restore of this guest was interrupted, not a migration. The guest \
             is incomplete.",
            vec![always(guest.deletion())],
        ),
        (CREATE, Some(_)) => (
            "A migration from another cluster to this node was interrupted. The guest here is \
             incomplete, and the source still has it.",
            vec![always(guest.deletion())],
        ),
        (CREATE, None) => (
            "A migration from another cluster to this node, a restore or a creation was \
             interrupted. The guest is incomplete.",
            vec![always(guest.deletion())],
        ),
        (MIGRATE, Some((Role::Source, true))) => (
            "The last migration of this guest succeeded, and did not delete it here. The lock \
             prevents that the guest runs at both ends. Do not start it here while it exists at \
             the target.",
            vec![
                when(
                    "If the guest at the target is complete, and this copy is not needed:",
                    guest.deletion(),
                ),
                when("If this guest is needed again:", vec![guest.unlock()]),
            ],
        ),
        (MIGRATE, Some((Role::Source, false))) => (
            "A migration from this node was interrupted. This is the original of the guest. Check \
             first that the guest does not run at the target: it may have started there \
             immediately before the interruption.",
            vec![when(
                "If the guest does not run at the target:",
                vec![guest.unlock()],
            )],
        ),
        (MIGRATE, Some((Role::Target, _))) => (
            "A migration from another cluster to this node was interrupted. Either the source or \
             this node has the valid copy. Check the source first.",
            incoming(guest),
        ),
        (MIGRATE, _) => (
            "A migration from this node or to this node was interrupted. The task log of this node \
             does not show which.",
            either(guest),
        ),
        _ => return None,
    };
    let mut found = format!(
        "{} {} is {}locked ({lock}), and no task is running for it.",
        guest.kind.name(),
        guest.id,
        if guest.running { "running and " } else { "" },
    );
    if let Some((_, task)) = last {
        let status = task.status.as_deref().unwrap_or("the node stopped");
        found += &format!(
            " Its last task, {}, ended with: {}.",
            task.kind,
            one_line(status)
        );
    }
    Some(Leftover {
        kind: Kind::LockedGuest,
        guest: Some(guest.id),
        found,
        meaning: meaning.to_owned(),
        remedies,
    })
}

/// The guest's last task that can have set the lock.
fn last_task<'a>(guest: u32, lock: &str, ended: &'a [EndedTask]) -> Option<(Role, &'a EndedTask)> {
    let id = guest.to_string();
    let can_set = |role: &Role| match role {
        Role::Target => true,
        Role::Source => lock == MIGRATE,
        Role::Creation => lock == CREATE,
    };
    ended
        .iter()
        .filter(|task| task.id == id)
        .filter_map(|task| Some((Role::of(&task.kind).filter(can_set)?, task)))
        .max_by_key(|(_, task)| task.started)
}

/// The remedies for a guest that another cluster has sent.
fn incoming(guest: &Guest) -> Vec<Remedy> {
    match (guest.kind, guest.running) {
        // A container is started only after the source has given it up.
        (GuestKind::Lxc, true) => vec![always(vec![guest.unlock()])],
        (GuestKind::Qemu, true) => {
            let shows = format!("'qm status {} --verbose' shows", guest.id);
            vec![
                when(
                    &format!("If {shows} 'qmpstatus: running', this is the valid copy:"),
                    vec![guest.unlock()],
                ),
                when(
                    &format!(
                        "If {shows} another qmpstatus, the guest has not started here, and the \
                         source has the valid copy:"
                    ),
                    guest.deletion(),
                ),
            ]
        }
        (_, false) => vec![
            when(
                "If the guest is still at the source, and was never started here, the source has \
                 the valid copy:",
                guest.deletion(),
            ),
            when(
                "If it is not at the source any more, or was started here, this is the valid copy:",
                vec![guest.unlock()],
            ),
        ],
    }
}

/// The remedies if it is not known whether the guest was moved from here or to here.
fn either(guest: &Guest) -> Vec<Remedy> {
    let mut remedies = vec![when(
        "If the guest was to leave this node, or has moved inside this cluster, and does not run \
         anywhere else:",
        vec![guest.unlock()],
    )];
    let incoming = incoming(guest).into_iter().map(|remedy| Remedy {
        condition: Some(match remedy.condition {
            Some(condition) => format!("If it was to come from another cluster: {condition}"),
            None => "If it was to come from another cluster:".to_owned(),
        }),
        ..remedy
    });
    remedies.extend(incoming);
    remedies
}

fn orphan(volume: &Volume) -> Leftover {
    let Volume { volid, owner } = volume;
    let storage = volid.split(':').next().unwrap_or(volid);
    Leftover {
        kind: Kind::Volume,
        guest: Some(*owner),
        found: format!("The volume {volid} belongs to guest {owner}, which does not exist."),
        meaning: format!(
            "No node of this cluster has this guest, and no other guest uses the volume. Check \
             that no other cluster uses storage '{storage}', and that the data is not needed: it \
             is lost."
        ),
        remedies: vec![always(vec![format!("pvesm free {}", quoted(volid))])],
    }
}

fn stale_socket(socket: &Socket) -> Leftover {
    Leftover {
        kind: Kind::Socket,
        guest: Some(socket.guest),
        found: format!("No process has the socket {} open.", socket.path.display()),
        meaning: "It is harmless: the next migration of this guest replaces it. Migrations that \
                  succeeded leave one, too."
            .to_owned(),
        remedies: vec![remove_file(&socket.path)],
    }
}

fn orphaned_process(process: &Process) -> Leftover {
    let Process { pid, name, .. } = process;
    let command = match process.stopped {
        true => format!("kill -KILL {pid}"),
        false => format!("kill {pid}"),
    };
    let stopped = match process.stopped {
        true => " A signal has stopped it.",
        false => "",
    };
    Leftover {
        kind: Kind::Process,
        guest: None,
        found: format!("The {name} with process ID {pid} has no parent.{stopped}"),
        meaning: "The migration that started it has ended, so it has no use.".to_owned(),
        remedies: vec![always(vec![command])],
    }
}

fn remove_file(path: &std::path::Path) -> Remedy {
    always(vec![format!("rm {}", quoted(&path.to_string_lossy()))])
}

fn always(commands: Vec<String>) -> Remedy {
    Remedy {
        condition: None,
        commands,
    }
}

fn when(condition: &str, commands: Vec<String>) -> Remedy {
    Remedy {
        condition: Some(condition.to_owned()),
        commands,
    }
}

impl EndedTask {
    fn ok(&self) -> bool {
        let status = self.status.as_deref();
        status.is_some_and(|status| status == "OK" || status.starts_with("WARNINGS: "))
    }
}

impl GuestKind {
    /// Its name in messages.
    fn name(self) -> &'static str {
        match self {
            Self::Qemu => "VM",
            Self::Lxc => "Container",
        }
    }
}

impl Guest {
    fn unlock(&self) -> String {
        match self.kind {
            GuestKind::Qemu => format!("qm unlock {}", self.id),
            GuestKind::Lxc => format!("pct unlock {}", self.id),
        }
    }

    /// Removes a guest and the volumes that its configuration names. Volumes that it does not name
    /// yet are found by the next run. `--destroy-unreferenced-disks` would remove them too, but also
    /// the source's volumes, if both clusters use one storage. `pct destroy` has no option for a
    /// locked container.
    fn deletion(&self) -> Vec<String> {
        let Self { id, running, .. } = self;
        let mut commands = Vec::new();
        match self.kind {
            GuestKind::Qemu => {
                if *running {
                    commands.push(format!("qm stop {id} --skiplock 1"));
                }
                commands.push(format!("qm destroy {id} --skiplock 1"));
            }
            GuestKind::Lxc => {
                commands.push(self.unlock());
                if *running {
                    commands.push(format!("pct stop {id}"));
                }
                commands.push(format!("pct destroy {id}"));
            }
        }
        commands
    }
}
