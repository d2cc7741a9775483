//! Tests of the formats.
#![allow(clippy::unwrap_used)]

use super::*;

const RUNNING: &str = "UPID:pve1:0000AB12:00000001C:6750A000:qmigrate:100:root@pam:";
const CRASHED: &str = "UPID:pve1:0000AB13:0000001D:6750A001:qmtunnel:101:mover@pve!token:";

#[test]
fn a_upid_has_nine_fields() {
    let upid = Upid::parse(RUNNING).unwrap();
    assert_eq!((upid.node, upid.pid), ("pve1", 0xAB12));
    assert_eq!((upid.process_start, upid.started), (0x1C, 0x6750_A000));
    assert_eq!((upid.kind, upid.id), ("qmigrate", "100"));
    for text in [
        "",
        "UPID",
        "UPID:pve1:0000AB12:0000001C:6750A000:qmigrate:100:root@pam",
        "UPID:pve1:xyz:0000001C:6750A000:qmigrate:100:root@pam:",
        "upid:pve1:0000AB12:0000001C:6750A000:qmigrate:100:root@pam:",
    ] {
        assert_eq!(Upid::parse(text), None, "{text}");
    }
}

#[test]
fn a_task_without_an_end_runs_only_if_its_process_does() {
    let done = "UPID:pve1:0000AB14:0000001E:6750A002:vzmigrate:102:root@pam:";
    let text = format!("{RUNNING} 0\n{CRASHED} 0\n{done} 1 6750A0FF unable to x\nnonsense\n\n");
    let (running, ended) = active(&text, |upid| upid.pid == 0xAB12);
    let ids: Vec<&str> = running.iter().map(|task| &*task.id).collect();
    assert_eq!(ids, ["100"]);
    let ended: Vec<_> = ended
        .iter()
        .map(|task| (&*task.id, task.status.as_deref()))
        .collect();
    assert_eq!(ended, [("101", None), ("102", Some("unable to x"))]);

    let index = index(&format!("{done} 6750A0FF OK\n{CRASHED} 6750A0FF a b c\n"));
    let statuses: Vec<_> = index.iter().map(|task| task.status.as_deref()).collect();
    assert_eq!(statuses, [Some("OK"), Some("a b c")]);
}

#[test]
fn running_tasks_of_other_nodes_are_those_without_an_end() {
    let json = serde_json::json!([
        {"upid": RUNNING, "node": "pve1"},
        {"upid": RUNNING.replace("pve1", "pve2"), "node": "pve2"},
        {"upid": CRASHED.replace("pve1", "pve2"), "endtime": 1, "status": "OK"},
        {"no": "upid"},
    ]);
    let tasks = cluster_tasks(&json.to_string(), "pve1").unwrap();
    assert_eq!(tasks.len(), 1);
    assert_eq!((&*tasks[0].kind, &*tasks[0].id), ("qmigrate", "100"));
    assert!(cluster_tasks("no JSON", "pve1").is_err());
}

#[test]
fn a_worker_is_recognized_by_its_command_line() {
    assert_eq!(
        worker(&format!("task {RUNNING}"), 0xAB12).unwrap().id,
        "100"
    );
    assert_eq!(
        worker(&format!("task {RUNNING}"), 1),
        None,
        "another process"
    );
    assert_eq!(worker(&format!("less {RUNNING}"), 0xAB12), None);
}

#[test]
fn the_lock_is_in_the_first_part_of_a_configuration() {
    for (text, expected) in [
        ("lock: create\n", Some("create")),
        ("memory: 16\nlock: migrate\nscsi0: a:b\n", Some("migrate")),
        ("memory: 16\n\n[snapshot]\nlock: migrate\n", None),
        ("# lock: migrate\n", None),
        ("lock:\n", None),
        ("", None),
    ] {
        assert_eq!(lock(text).as_deref(), expected, "{text}");
    }
}

#[test]
fn volume_ids_are_found_in_every_property() {
    let text = "scsi0: local-lvm:vm-100-disk-0,size=4G\nefidisk0: file=nfs:100/vm-100-disk-1.raw,x=y\n\
                unused0: zfs:vm-100-disk-2\nsata0: zfs:base-9-disk-0/vm-100-disk-3\n\
                sata1: nfs:9/base-9-disk-1.raw/100/vm-100-disk-4.qcow2\n[snap]\nvmstate: zfs:vm-100-state-snap\n";
    let ids = volume_ids(text);
    for id in [
        "local-lvm:vm-100-disk-0",
        "nfs:100/vm-100-disk-1.raw",
        "zfs:vm-100-disk-2",
        "zfs:base-9-disk-0",
        "zfs:base-9-disk-0/vm-100-disk-3",
        "nfs:9/base-9-disk-1.raw",
        "nfs:9/base-9-disk-1.raw/100/vm-100-disk-4.qcow2",
        "zfs:vm-100-state-snap",
    ] {
        assert!(ids.contains(id), "{id}: {ids:?}");
    }
}

#[test]
fn only_volumes_of_guests_are_read_from_a_list() {
    let output = "\
Volid                              Format  Type             Size VMID
local-lvm:vm-100-disk-0            raw     images     4294967296 100
zfs:subvol-101-disk-0              subvol  rootdir             - 101
nfs:102/vm-102-disk-0.qcow2        qcow2   images          ~1234 102
local:backup/vzdump-qemu-103.zst   vma.zst backup            123 103
local:iso/debian.iso               iso     iso               123
";
    let found = volumes(output).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|volume| (&*volume.volid, volume.owner))
        .collect();
    assert_eq!(
        found,
        [
            ("local-lvm:vm-100-disk-0", 100),
            ("zfs:subvol-101-disk-0", 101),
            ("nfs:102/vm-102-disk-0.qcow2", 102),
        ]
    );
    assert_eq!(volumes("").unwrap(), []);
    let error = volumes("storage is busy\n").unwrap_err();
    assert!(error.contains("'storage is busy'"), "{error}");
}

#[test]
fn disabled_storages_are_not_listed() {
    let output = "\
Name             Type     Status     Total (KiB)      Used (KiB) Available (KiB)        %
local             dir     active        98497780        20000000        73000000   20.31%
nfs               nfs   inactive               0               0               0    0.00%
old               dir   disabled               0               0               0      N/A
";
    let found = storages(output).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|storage| (&*storage.name, storage.active))
        .collect();
    assert_eq!(found, [("local", true), ("nfs", false)]);
}

#[test]
fn bound_sockets_are_read_with_their_whole_path() {
    let table = "\
Num       RefCount Protocol Flags    Type St Inode Path
ffff8880: 00000002 00000000 00010000 0001 01 31337 /run/qemu-server/100.migrate
ffff8881: 00000003 00000000 00000000 0001 03 31338
ffff8882: 00000002 00000000 00010000 0001 01     9 @/var/lib/lxc/101/command
ffff8883: 00000002 00000000 00010000 0001 01 31339 /run/a b
";
    let found: Vec<&str> = bound_sockets(table).into_iter().collect();
    assert_eq!(
        found,
        [
            "/run/a b",
            "/run/qemu-server/100.migrate",
            "@/var/lib/lxc/101/command",
        ]
    );
}

#[test]
fn sockets_of_migrations_have_these_names() {
    for (directory, name, expected) in [
        ("/run/qemu-server", "100.mtunnel", Some(100)),
        ("/run/qemu-server", "100.mtunnel.meter", Some(100)),
        ("/run/qemu-server", "100.mtunnel.lanes", Some(100)),
        ("/run/qemu-server", "100.mtunnel.other", None),
        ("/run/qemu-server", "100.migrate", Some(100)),
        ("/run/qemu-server", "100_nbd.migrate", Some(100)),
        ("/run/qemu-server", "100.qmp", None),
        ("/run/qemu-server", "x.migrate", None),
        ("/run/pve", "100.storage", Some(100)),
        ("/run/pve", "ct-100.mtunnel", Some(100)),
        ("/run/pve", "ct-100.mtunnel.lanes", Some(100)),
        ("/run/pve", "ct-100.storage", Some(100)),
        ("/run/pve", "storage-migrate-100.4711.unix", Some(100)),
        ("/run/pve", "ct-100.stderr", None),
        ("/run/pve", "100.migrate", None),
    ] {
        assert_eq!(
            guest_of_socket(directory, name),
            expected,
            "{directory}/{name}"
        );
    }
}

#[test]
fn a_process_name_can_contain_parentheses() {
    let fields = "S 1 10 10 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
    let stat = Stat::parse(&format!("77 (a) b) c) {fields}")).unwrap();
    let expected = Stat {
        state: 'S',
        parent: 1,
        start: 4242,
    };
    assert_eq!(stat, expected);
    assert_eq!(Stat::parse("77 (a) S 1"), None);
}

#[test]
fn tunnel_processes_have_these_command_lines() {
    for (line, expected) in [
        ("pve-tunnel listener", Some("listener")),
        ("pve-tunnel connector", Some("connector")),
        ("/usr/bin/pve-tunnel connect --mask zero", Some("connector")),
        ("proxmox-websocket-tunnel", Some("connector")),
        ("/usr/bin/pve-tunnel leftovers", None),
        ("pve-tunnel", None),
        ("grep pve-tunnel listener", None),
        ("", None),
    ] {
        assert_eq!(tunnel_process(line), expected, "{line}");
    }
}
