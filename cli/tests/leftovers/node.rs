//! A directory tree with the files of a node, and fakes of its programs.

use pve_tunnel_cli::leftovers::{Facts, Leftovers, collect, decide};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The columns that `pvesm` prints.
const STORAGES: &str = "Name Type Status Total Used Available %\n";
const VOLUMES: &str = "Volid Format Type Size VMID\n";

pub(crate) struct Node(TempDir);

impl Node {
    /// A node with the name pve1, without guests, storages and tasks.
    pub(crate) fn new() -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(node.at("/etc/pve/nodes/pve1")).unwrap();
        symlink("nodes/pve1", node.at("/etc/pve/local")).unwrap();
        node.write(
            "/proc/net/unix",
            "Num RefCount Protocol Flags Type St Inode Path\n",
        );
        node.storages(&[]);
        node
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn append(&self, path: &str, content: &str) {
        let before = fs::read_to_string(self.at(path)).unwrap_or_default();
        self.write(path, &format!("{before}{content}"));
    }

    pub(crate) fn program(&self, path: &str, script: &str) {
        // Written by another process: a child of a test that runs at the same time could inherit
        // the descriptor, and the kernel does not execute a file that is open for writing.
        let text = format!("{path}.text");
        self.write(&text, &format!("#!/bin/sh\n{script}"));
        let copied = std::process::Command::new("cp")
            .args([self.at(&text), self.at(path)])
            .status();
        assert!(copied.unwrap().success());
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Installs a `pvesm` with these storages: name, status, and the rows of its list.
    pub(crate) fn storages(&self, storages: &[(&str, &str, &str)]) {
        let mut status = STORAGES.to_owned();
        let mut lists = String::new();
        for (name, state, rows) in storages {
            status += &format!("{name} dir {state} 1 1 1 1.00%\n");
            lists += &format!("'list {name}') printf '%s' '{VOLUMES}{rows}' ;;\n");
        }
        let script = format!(
            "case \"$*\" in\n\
             'status --enabled 1 --content images,rootdir') printf '%s' '{status}' ;;\n\
             {lists}*) echo \"unexpected: $*\" >&2; exit 1 ;;\nesac\n"
        );
        self.program("/usr/sbin/pvesm", &script);
    }

    pub(crate) fn guest(&self, path: &str, configuration: &str) {
        self.write(&format!("/etc/pve/nodes/{path}.conf"), configuration);
    }

    /// Adds a task to the list of active ones. Its process has the same start if it is running.
    pub(crate) fn task(&self, pid: u32, kind: &str, guest: u32, running: bool) {
        let upid = format!("UPID:pve1:{pid:08X}:00000064:6750A000:{kind}:{guest}:root@pam:");
        self.append("/var/log/pve/tasks/active", &format!("{upid} 0\n"));
        let start = if running { 100 } else { 101 };
        self.process(pid, 2, 'S', start, "pvedaemon worker");
    }

    /// A process with this command line. The kernel ends each word with NUL.
    pub(crate) fn process(&self, pid: u32, parent: u32, state: char, start: u32, line: &str) {
        let zeros = "0 ".repeat(17);
        let stat = format!("{pid} (a process) {state} {parent} {zeros}{start} 0 0\n");
        self.write(&format!("/proc/{pid}/stat"), &stat);
        let command_line = line.replace(' ', "\0");
        self.write(&format!("/proc/{pid}/cmdline"), &command_line);
    }

    /// A socket, which the returned listener has open. The kernel's table contains it if it is bound.
    pub(crate) fn socket(&self, path: &str, bound: bool) -> UnixListener {
        let file = self.at(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(&file).unwrap();
        if bound {
            let row = format!(
                "0: 00000002 00000000 00010000 0001 01 1 {}\n",
                file.display()
            );
            self.append("/proc/net/unix", &row);
        }
        listener
    }

    pub(crate) fn facts(&self) -> Facts {
        collect(self.root()).unwrap()
    }

    pub(crate) fn leftovers(&self) -> Leftovers {
        decide(&self.facts())
    }

    /// The first command of each leftover.
    pub(crate) fn commands(&self) -> Vec<String> {
        let leftovers = self.leftovers().leftovers;
        let root = self.root().to_string_lossy().into_owned();
        leftovers
            .iter()
            .map(|leftover| leftover.remedies[0].commands[0].replace(&root, ""))
            .collect()
    }
}
