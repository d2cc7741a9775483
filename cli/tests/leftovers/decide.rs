//! What is a leftover, and the commands that remove it.

use pve_tunnel_cli::leftovers::{
    EndedTask, Facts, Guest, GuestKind, Kind, Leftover, Process, RunningTask, Socket, Volume,
    decide,
};
use pve_tunnel_cli::shell::quoted;

fn guest(kind: GuestKind, lock: &str, running: bool) -> Guest {
    Guest {
        id: 100,
        kind,
        node: "pve1".to_owned(),
        lock: Some(lock.to_owned()),
        running,
    }
}

fn ended(kind: &str, started: u64, status: Option<&str>) -> EndedTask {
    EndedTask {
        kind: kind.to_owned(),
        id: "100".to_owned(),
        started,
        status: status.map(str::to_owned),
    }
}

fn running(kind: &str, id: &str) -> RunningTask {
    RunningTask {
        kind: kind.to_owned(),
        id: id.to_owned(),
    }
}

fn node() -> Facts {
    Facts {
        node: "pve1".to_owned(),
        ..Facts::default()
    }
}

/// The commands of each remedy, joined, in their order.
fn commands(leftover: &Leftover) -> Vec<String> {
    let remedies = leftover.remedies.iter();
    remedies.map(|remedy| remedy.commands.join("; ")).collect()
}

fn only(facts: &Facts) -> Leftover {
    let mut found = decide(facts).leftovers;
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

#[test]
fn the_last_task_decides_what_removes_a_lock() {
    use GuestKind::{Lxc, Qemu};
    const UNLOCK: &str = "qm unlock 100";
    const DESTROY: &str = "qm destroy 100 --skiplock 1";
    const STOP: &str = "qm stop 100 --skiplock 1; qm destroy 100 --skiplock 1";
    const CT_UNLOCK: &str = "pct unlock 100";
    const CT_DESTROY: &str = "pct unlock 100; pct destroy 100";
    type Row<'a> = (
        GuestKind,
        &'a str,
        bool,
        Option<(&'a str, Option<&'a str>)>,
        &'a str,
        &'a [&'a str],
    );
    #[rustfmt::skip] // One row a line.
    let table: [Row<'_>; 16] = [
        (Qemu, "create", false, Some(("qmtunnel", None)), "the source still has it", &[DESTROY]),
        (Qemu, "create", true, Some(("qmtunnel", Some("x"))), "the source still has it", &[STOP]),
        (Qemu, "create", false, Some(("qmrestore", Some("x"))), "not a migration", &[DESTROY]),
        (Qemu, "create", false, None, "a restore or a creation", &[DESTROY]),
        (Lxc, "create", false, Some(("vzmtunnel", None)), "the source still has it", &[CT_DESTROY]),
        (Qemu, "migrate", true, Some(("qmigrate", None)), "This is the original", &[UNLOCK]),
        (Qemu, "migrate", false, Some(("qmigrate", Some("aborted"))), "This is the original", &[UNLOCK]),
        (Lxc, "migrate", false, Some(("vzmigrate", Some("x"))), "This is the original", &[CT_UNLOCK]),
        (Qemu, "migrate", false, Some(("qmigrate", Some("OK"))), "succeeded", &[DESTROY, UNLOCK]),
        (Qemu, "migrate", false, Some(("qmigrate", Some("WARNINGS: 2"))), "succeeded", &[DESTROY, UNLOCK]),
        (Lxc, "migrate", false, Some(("vzmigrate", Some("OK"))), "succeeded", &[CT_DESTROY, CT_UNLOCK]),
        (Qemu, "migrate", false, Some(("qmtunnel", None)), "Check the source first", &[DESTROY, UNLOCK]),
        (Qemu, "migrate", true, Some(("qmtunnel", None)), "Check the source first", &[UNLOCK, STOP]),
        (Lxc, "migrate", true, Some(("vzmtunnel", None)), "Check the source first", &[CT_UNLOCK]),
        // A restore does not set this lock, so it does not explain it.
        (Qemu, "migrate", false, Some(("qmrestore", Some("OK"))), "does not show which", &[UNLOCK, DESTROY, UNLOCK]),
        (Qemu, "migrate", true, None, "does not show which", &[UNLOCK, UNLOCK, STOP]),
    ];
    for (kind, lock, is_running, last, meaning, expected) in table {
        let name = format!("{kind:?}, {lock}, running: {is_running}, {last:?}");
        let mut facts = node();
        facts.guests.push(guest(kind, lock, is_running));
        // Earlier tasks, and tasks that set no lock, do not count.
        facts.ended.push(ended("qmstart", 99, Some("OK")));
        if let Some((task, status)) = last {
            facts.ended.push(ended(task, 50, status));
            facts.ended.push(ended("qmigrate", 10, Some("OK")));
            facts.ended.push(ended("qmtunnel", 9, Some("OK")));
        }
        if last.is_some_and(|(task, _)| task == "qmrestore") && lock == "migrate" {
            facts.ended.truncate(2);
        }
        let found = only(&facts);
        assert_eq!((found.kind, found.guest), (Kind::LockedGuest, Some(100)));
        assert!(found.meaning.contains(meaning), "{name}: {}", found.meaning);
        assert_eq!(commands(&found), expected, "{name}");
        if expected.len() > 1 {
            let has_condition = |remedy: &_| {
                let remedy: &pve_tunnel_cli::leftovers::Remedy = remedy;
                remedy.condition.is_some()
            };
            assert!(found.remedies.iter().all(has_condition), "{name}");
        }
    }
}

#[test]
fn the_last_task_and_its_end_are_reported() {
    let mut facts = node();
    facts.guests.push(guest(GuestKind::Qemu, "migrate", true));
    facts.ended.push(ended("qmigrate", 1, None));
    assert_eq!(
        only(&facts).found,
        "VM 100 is running and locked (migrate), and no task is running for it. Its last task, \
         qmigrate, ended with: the node stopped."
    );
    facts
        .ended
        .push(ended("qmigrate", 2, Some("received\u{1b}[2J interrupt")));
    let found = only(&facts).found;
    assert!(
        found.ends_with("ended with: received [2J interrupt."),
        "no control characters of a log reach the terminal: {found:?}"
    );
}

#[test]
fn guests_that_are_not_locked_by_a_migration_are_not_reported() {
    for lock in ["backup", "clone", "snapshot", "suspended", "mounted"] {
        let mut facts = node();
        facts.guests.push(guest(GuestKind::Qemu, lock, false));
        assert_eq!(decide(&facts).leftovers, [], "{lock}");
    }
    let mut facts = node();
    facts.guests.push(guest(GuestKind::Qemu, "migrate", false));
    facts.guests[0].node = "pve2".to_owned();
    assert_eq!(decide(&facts).leftovers, [], "a guest of another node");
    facts.guests[0].node = "pve1".to_owned();
    facts.guests[0].lock = None;
    assert_eq!(decide(&facts).leftovers, [], "no lock");
}

#[test]
fn nothing_of_a_guest_is_reported_while_a_task_is_running_for_it() {
    let mut facts = node();
    facts.guests.push(guest(GuestKind::Qemu, "migrate", true));
    facts.volumes.push(Volume {
        volid: "zfs:vm-101-disk-0".to_owned(),
        owner: 101,
    });
    facts.sockets.push(Socket {
        path: "/run/qemu-server/100.migrate".into(),
        guest: 100,
        in_use: false,
    });
    let kinds = |facts: &Facts| -> Vec<Kind> {
        let found = decide(facts).leftovers;
        found.iter().map(|leftover| leftover.kind).collect()
    };
    let all = [Kind::LockedGuest, Kind::Volume, Kind::Socket];
    assert_eq!(kinds(&facts), all);
    // A console and the task of another guest do not protect this one.
    facts.running.push(running("vncproxy", "100"));
    facts.running.push(running("qmigrate", "1000"));
    facts.running.push(running("vzdump", ""));
    assert_eq!(kinds(&facts), all);
    facts.running.push(running("qmigrate", "100"));
    assert_eq!(kinds(&facts), [Kind::Volume]);
    facts.running.push(running("qmrestore", "101"));
    assert_eq!(kinds(&facts), []);

    let in_progress = decide(&facts).in_progress;
    let shown: Vec<_> = in_progress
        .iter()
        .map(|each| (each.guest, each.task.as_str()))
        .collect();
    assert_eq!(
        shown,
        [(100, "qmigrate"), (101, "qmrestore"), (1000, "qmigrate")]
    );
}

/// The ID of a clone's task is that of the original. The new guest is locked by `create`.
#[test]
fn a_guest_that_a_running_clone_may_create_is_not_reported() {
    for task in ["qmclone", "vzclone"] {
        let mut facts = node();
        facts.guests.push(guest(GuestKind::Qemu, "create", false));
        facts.running.push(running(task, "900"));
        let found = decide(&facts);
        assert_eq!(found.leftovers, [], "{task}");
        assert_eq!(
            found.unchecked,
            [format!(
                "guest 100, which is locked (create): a clone of another guest is running ({task}), \
                 which may create it. Run this again when it has ended."
            )]
        );
        // A clone does not set the other lock.
        facts.guests[0].lock = Some("migrate".to_owned());
        assert_eq!(decide(&facts).leftovers.len(), 1, "{task}");
    }
}

#[test]
fn a_volume_is_reported_if_no_guest_owns_or_uses_it() {
    let volume = |volid: &str, owner| Volume {
        volid: volid.to_owned(),
        owner,
    };
    let mut facts = node();
    facts.guests.push(guest(GuestKind::Lxc, "", false));
    facts.guests[0].node = "pve2".to_owned();
    facts.referenced.push("zfs:vm-300-disk-0".to_owned());
    facts.volumes = vec![
        volume("zfs:vm-100-disk-0", 100),
        volume("zfs:vm-300-disk-0", 300),
        volume("zfs:vm-300-disk-1", 300),
        volume("dir:301/it's mine.raw", 301),
        volume("dir:302/\u{202e}war.raw", 302),
    ];
    let found = decide(&facts);
    assert_eq!(found.unchecked.len(), 1, "{:?}", found.unchecked);
    assert!(found.unchecked[0].ends_with(r"cannot be printed: dir:302/\u{202e}war.raw"));
    let found = found.leftovers;
    let found: Vec<_> = found
        .iter()
        .map(|leftover| (leftover.guest, commands(leftover).join("")))
        .collect();
    assert_eq!(
        found,
        [
            (Some(300), "pvesm free zfs:vm-300-disk-1".to_owned()),
            (
                Some(301),
                r"pvesm free 'dir:301/it'\''s mine.raw'".to_owned()
            ),
        ]
    );
}

#[test]
fn sockets_files_and_processes_without_a_user_are_reported() {
    let mut facts = node();
    for (name, in_use) in [("100.migrate", true), ("101.mtunnel", false)] {
        facts.sockets.push(Socket {
            path: format!("/run/qemu-server/{name}").into(),
            guest: name[..3].parse().unwrap(),
            in_use,
        });
    }
    facts
        .unlocked_slots
        .push("/run/pve-tunnel/listeners/4-1".into());
    for (pid, parent, stopped) in [(7, 6, false), (8, 1, false), (9, 1, true)] {
        facts.processes.push(Process {
            pid,
            parent,
            name: "listener",
            stopped,
        });
    }
    let found = decide(&facts).leftovers;
    let found: Vec<_> = found
        .iter()
        .map(|leftover| (leftover.kind, commands(leftover).join("")))
        .collect();
    assert_eq!(
        found,
        [
            (Kind::Socket, "rm /run/qemu-server/101.mtunnel".to_owned()),
            (
                Kind::ListenerFile,
                "rm /run/pve-tunnel/listeners/4-1".to_owned()
            ),
            (Kind::Process, "kill 8".to_owned()),
            (Kind::Process, "kill -KILL 9".to_owned()),
        ]
    );
}

/// A shell reads each word as it was given.
#[test]
fn words_are_quoted_for_a_shell() {
    for word in [
        "local-lvm:vm-100-disk-0",
        "a b",
        "it's",
        "$(touch x)",
        "a;b|c&d",
        "*?[",
        "`x`",
        "\"",
        "\\",
        "~root",
        "#",
        "-n",
        "",
    ] {
        let script = format!("printf %s {}", quoted(word));
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), word, "{script}");
    }
    assert_eq!(quoted("local-lvm:vm-100-disk-0"), "local-lvm:vm-100-disk-0");
}

#[test]
fn the_text_fits_80_columns_and_commands_stand_alone() {
    let mut facts = node();
    facts.guests.push(guest(GuestKind::Qemu, "migrate", true));
    facts.running.push(running("qmtunnel", "104"));
    facts
        .unchecked
        .push("volumes of storage 'nfs': the storage is not active".to_owned());
    let text = decide(&facts).to_string();
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    for line in [
        "In progress: qmtunnel of guest 104. Nothing of this guest is listed.",
        " 1. VM 100 is running and locked (migrate), and no task is running for it.",
        "        qm unlock 100",
        "NOT CHECKED: volumes of storage 'nfs': the storage is not active",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(text.contains("Do not run a command while a migration"));
    let nothing = decide(&node()).to_string();
    assert!(
        nothing.starts_with("Nothing was found on pve1.\n"),
        "{nothing}"
    );
}
