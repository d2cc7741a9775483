//! What is collected from the files and programs of a node.

use crate::node::Node;
use pve_tunnel_cli::leftovers::collect;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn a_node_without_leftovers_has_none() {
    let node = Node::new();
    node.guest(
        "pve1/qemu-server/100",
        "memory: 512\nscsi0: dir:vm-100-disk-0,size=1G\n",
    );
    node.guest("pve1/lxc/101", "rootfs: dir:vm-101-disk-0\nlock: backup\n");
    let rows = "dir:vm-100-disk-0 raw images 1 100\ndir:vm-101-disk-0 raw rootdir 1 101\n";
    node.storages(&[("dir", "active", rows)]);
    let found = node.leftovers();
    assert_eq!((found.leftovers, found.unchecked), (vec![], vec![]));
    assert_eq!(found.node, "pve1");
}

#[test]
fn an_interrupted_migration_is_found_at_both_ends() {
    // At the target: the worker was killed before and after it received the configuration.
    let node = Node::new();
    node.task(4711, "qmtunnel", 100, false);
    node.guest("pve1/qemu-server/100", "lock: create\n");
    node.task(4712, "vzmtunnel", 101, false);
    node.guest("pve1/lxc/101", "arch: amd64\nlock: migrate\n");
    assert_eq!(
        node.commands(),
        ["qm destroy 100 --skiplock 1", "pct unlock 101"]
    );

    // At the source: the log has the end of the task, and the guest goes on running.
    let node = Node::new();
    let upid = "UPID:pve1:00001267:00000064:6750A000:qmigrate:100:root@pam:";
    node.append(
        "/var/log/pve/tasks/index",
        &format!("{upid} 6750A0FF received interrupt\n"),
    );
    node.guest(
        "pve1/qemu-server/100",
        "lock: migrate\nscsi0: dir:vm-100-disk-0\n",
    );
    node.write("/run/qemu-server/100.pid", "900\n");
    node.process(900, 1, 'S', 1, "/usr/bin/kvm -id 100 -name x ");
    let found = &node.leftovers().leftovers[0];
    assert_eq!(
        found.found,
        "VM 100 is running and locked (migrate), and no task is running for it. Its last task, \
         qmigrate, ended with: received interrupt."
    );
    assert_eq!(found.remedies[0].commands, ["qm unlock 100"]);
    // Another process has the ID that the PID file names.
    node.process(900, 1, 'S', 1, "/usr/bin/kvm -id 1000 ");
    let found = &node.leftovers().leftovers[0];
    assert!(
        found.found.starts_with("VM 100 is locked"),
        "{}",
        found.found
    );
}

#[test]
fn a_guest_with_a_running_task_is_in_progress() {
    let node = Node::new();
    node.guest("pve1/qemu-server/100", "lock: migrate\n");
    node.task(4711, "qmigrate", 100, true);
    assert_eq!(node.commands(), Vec::<String>::new());
    assert_eq!(node.leftovers().in_progress[0].guest, 100);
    // The process has ended, or the node was restarted and another process has its ID.
    fs::remove_file(node.at("/proc/4711/stat")).unwrap();
    assert_eq!(node.commands().len(), 1);

    // The list has no entry yet: the worker is found by its command line.
    let upid = "UPID:pve1:00001300:00000064:6750A000:qmtunnel:100:root@pam:";
    node.process(0x1300, 1, 'S', 100, &format!("task {upid} "));
    assert_eq!(node.commands(), Vec::<String>::new());
}

#[test]
fn a_task_of_another_node_of_the_cluster_protects_a_guest() {
    let node = Node::new();
    node.guest("pve1/qemu-server/100", "lock: migrate\n");
    node.guest("pve2/qemu-server/200", "lock: migrate\n");
    let upid = "UPID:pve2:00001300:00000064:6750A000:qmigrate:100:root@pam:";
    let running = json!([{ "upid": upid, "node": "pve2" }]).to_string();
    node.program("/usr/bin/pvesh", &format!("echo '{running}'\n"));
    assert_eq!(node.commands(), Vec::<String>::new());
    let ended = json!([{ "upid": upid, "endtime": 1, "status": "OK" }]).to_string();
    node.program("/usr/bin/pvesh", &format!("echo '{ended}'\n"));
    assert_eq!(
        node.commands(),
        ["qm unlock 100"],
        "not 200 of the other node"
    );

    // Without the tasks of the other node, no advice is safe.
    node.program("/usr/bin/pvesh", "echo no quorum >&2; exit 255\n");
    let found = node.leftovers();
    assert_eq!(found.leftovers, []);
    assert_eq!(found.unchecked.len(), 1);
    assert!(
        found.unchecked[0].starts_with("locked guests, because"),
        "{found:?}"
    );
    assert!(found.unchecked[0].ends_with("no quorum"), "{found:?}");
}

#[test]
fn volumes_without_a_guest_in_the_cluster_are_found() {
    let node = Node::new();
    node.guest(
        "pve1/qemu-server/100",
        "scsi0: dir:vm-100-disk-0\nunused0: dir:vm-105-disk-0\n",
    );
    node.guest("pve2/lxc/101", "rootfs: dir:vm-101-disk-0\n");
    let rows = "dir:vm-100-disk-0 raw images 1 100\n\
                dir:vm-101-disk-0 raw rootdir 1 101\n\
                dir:vm-102-disk-0 raw images 1 102\n\
                dir:vm-105-disk-0 raw images 1 105\n\
                dir:backup/vzdump-qemu-103.zst vma.zst backup 1 103\n";
    let subvol = "zfs:subvol-104-disk-0 subvol rootdir 1 104\n";
    node.storages(&[("dir", "active", rows), ("zfs", "active", subvol)]);
    assert_eq!(
        node.commands(),
        [
            "pvesm free dir:vm-102-disk-0",
            "pvesm free zfs:subvol-104-disk-0"
        ]
    );
}

#[test]
fn a_storage_that_cannot_be_listed_is_reported_and_the_others_are_listed() {
    let node = Node::new();
    let rows = "dir:vm-102-disk-0 raw images 1 102\n";
    node.storages(&[("dir", "active", rows), ("nfs", "inactive", "")]);
    let found = node.leftovers();
    assert_eq!(found.leftovers.len(), 1);
    assert_eq!(
        found.unchecked,
        ["volumes of storage 'nfs': the storage is not active"]
    );
    node.program("/usr/sbin/pvesm", "echo 'cannot connect' >&2; exit 1\n");
    let unchecked = node.leftovers().unchecked;
    assert!(unchecked[0].starts_with("volumes: "), "{unchecked:?}");
    assert!(unchecked[0].ends_with(": cannot connect"), "{unchecked:?}");
    fs::remove_file(node.at("/usr/sbin/pvesm")).unwrap();
    assert!(node.leftovers().unchecked[0].contains("cannot run "));
}

#[test]
fn sockets_that_no_process_has_open_are_found() {
    let node = Node::new();
    let _open = [
        node.socket("/run/qemu-server/100.migrate", true),
        node.socket("/run/qemu-server/101.qmp", false),
    ];
    for path in [
        "/run/qemu-server/102.mtunnel",
        "/run/qemu-server/103_nbd.migrate",
        "/run/pve/104.storage",
        "/run/pve/ct-105.mtunnel",
        "/run/pve/storage-migrate-106.7.unix",
    ] {
        drop(node.socket(path, false));
    }
    node.write("/run/qemu-server/107.migrate", "a file");
    assert_eq!(
        node.commands(),
        [
            "rm /run/pve/104.storage",
            "rm /run/pve/ct-105.mtunnel",
            "rm /run/pve/storage-migrate-106.7.unix",
            "rm /run/qemu-server/102.mtunnel",
            "rm /run/qemu-server/103_nbd.migrate",
        ]
    );
    // Without the kernel's table, each socket would look stale.
    fs::remove_file(node.at("/proc/net/unix")).unwrap();
    let found = node.leftovers();
    assert_eq!(found.leftovers, []);
    assert!(
        found.unchecked[0].contains("/proc/net/unix cannot be read"),
        "{found:?}"
    );
}

#[test]
fn listeners_and_connectors_that_have_lost_their_parent_are_found() {
    let node = Node::new();
    node.process(10, 9, 'S', 1, "pve-tunnel listener ");
    node.process(11, 1, 'S', 1, "pve-tunnel listener ");
    node.process(12, 1, 'T', 1, "/usr/bin/pve-tunnel connect ");
    node.process(13, 1, 'S', 1, "/usr/bin/other connect ");
    assert_eq!(node.commands(), ["kill 11", "kill -KILL 12"]);

    // The lock of a listener protects its file.
    node.write("/run/pve-tunnel/listeners/lock", "");
    node.write("/run/pve-tunnel/listeners/4-1", "mover@pve");
    node.write("/run/pve-tunnel/listeners/4-2", "mover@pve");
    let held = fs::File::open(node.at("/run/pve-tunnel/listeners/4-1")).unwrap();
    let lock = nix::fcntl::Flock::lock(held, nix::fcntl::FlockArg::LockExclusive).unwrap();
    assert_eq!(node.commands()[0], "rm /run/pve-tunnel/listeners/4-2");
    assert_eq!(node.commands().len(), 3);
    drop(lock);
    assert_eq!(node.commands().len(), 4);
}

#[test]
fn nothing_on_the_node_is_changed() {
    let node = Node::new();
    node.guest("pve1/qemu-server/100", "lock: create\n");
    node.storages(&[("dir", "active", "dir:vm-102-disk-0 raw images 1 102\n")]);
    drop(node.socket("/run/pve/104.storage", false));
    node.write("/run/pve-tunnel/listeners/lock", "");
    node.write("/run/pve-tunnel/listeners/4-1", "x");
    let listing = || {
        let output = Command::new("find")
            .arg(node.root())
            .args(["-printf", "%p %y %s %T@ %C@\n"])
            .output();
        output.unwrap().stdout
    };
    let before = listing();
    assert_eq!(node.leftovers().leftovers.len(), 4);
    assert!(listing() == before);
}

#[test]
fn a_machine_that_is_not_a_node_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let error = collect(directory.path()).unwrap_err().to_string();
    assert!(error.contains("Is this a Proxmox VE node"), "{error}");
    if Path::new("/etc/pve/local").exists() {
        testing::report_skipped("the command", &"this is a node");
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_pve-tunnel"))
        .args(["leftovers", "--json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let expected = match nix::unistd::geteuid().is_root() {
        true => "pve-tunnel: cannot read /etc/pve/local: ",
        false => "pve-tunnel: only root can look for leftovers",
    };
    assert!(String::from_utf8_lossy(&output.stderr).starts_with(expected));
}

/// A folder where the file system of the cluster is not mounted: volumes of all guests would look abandoned.
#[test]
fn a_cluster_without_this_node_is_an_error() {
    let node = Node::new();
    node.storages(&[("dir", "active", "dir:vm-100-disk-0 raw images 1 100\n")]);
    assert_eq!(node.commands(), ["pvesm free dir:vm-100-disk-0"]);
    fs::remove_dir(node.at("/etc/pve/nodes/pve1")).unwrap();
    fs::create_dir(node.at("/etc/pve/nodes/pve2")).unwrap();
    let error = collect(node.root()).unwrap_err().to_string();
    assert!(error.contains("/etc/pve/nodes/pve1: "), "{error}");
    assert!(error.contains("is pve-cluster running?"), "{error}");
}

#[test]
fn a_named_pipe_in_place_of_a_configuration_is_reported() {
    let node = Node::new();
    node.guest("pve1/qemu-server/100", "memory: 512\n");
    let path = node.at("/etc/pve/nodes/pve1/qemu-server/101.conf");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let unchecked = node.leftovers().unchecked.join("\n");
    assert!(
        unchecked.contains("101.conf cannot be read: it is a named pipe"),
        "{unchecked}"
    );
}
