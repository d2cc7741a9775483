//! What `status` reports about files, about modules that Perl loads, and about running daemons.

use crate::node_tree::{Tree, shaped, with_tree, with_tree_of_root};
use pve_tunnel_cli::activation::{
    Component, ComponentState, DaemonStatus, NodeState, Reload, Scope,
};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

#[test]
fn a_node_that_is_off_on_or_helper_only_has_no_problem() {
    with_tree_of_root(|tree| {
        tree.install(
            "libpve-guest-common-perl",
            "6.0.2",
            &[("/usr/share/doc/x", "x")],
        );
        for (state, component) in [
            (NodeState::Off, None),
            (NodeState::On, Some(Component::Seam)),
            (NodeState::HelperOnly, Some(Component::Helper)),
        ] {
            match state {
                NodeState::On => drop(tree.node.enable(Scope::Modules).unwrap()),
                NodeState::HelperOnly => drop(tree.node.enable(Scope::HelperOnly).unwrap()),
                _ => drop(tree.node.disable().unwrap()),
            }
            let status = tree.node.status().unwrap();
            assert_eq!(status.problems, Vec::<String>::new(), "{state}");
            assert_eq!(status.state, state);
            for each in &status.components {
                let on = state == NodeState::On && each.component != Component::Helper
                    || component == Some(each.component);
                let expected = if on {
                    ComponentState::On
                } else {
                    ComponentState::Off
                };
                assert_eq!(each.state, expected, "{state}, {}", each.component);
                if let Some(module) = &each.module {
                    assert_eq!(module.in_effect, on, "{state}, {}", each.component);
                    assert_eq!(module.refusal, None, "{state}, {}", each.component);
                }
            }
            assert_eq!(status.versions["PVE::Tunnel::Overlay"], "7.8.9");
            let version = &status.components[0].package.as_ref().unwrap().version;
            assert_eq!(version, "6.0.2");
            assert_eq!(status.components[2].package, None);
        }
    });
}

#[test]
fn the_json_output_has_these_keys() {
    with_tree(|tree| {
        tree.node.enable(Scope::Modules).unwrap();
        tree.remove(Component::Helper.path());
        let status = serde_json::to_value(tree.node.status().unwrap()).unwrap();
        let module = |component: Component| {
            json!({
                "file": tree.at(component.path()), "error": null, "in_effect": true, "refusal": null,
            })
        };
        let component = |component: Component, name, state, module| {
            json!({
                "part": name, "state": state, "path": component.path(), "package": null, "module": module,
            })
        };
        assert_eq!(
            status,
            json!({
                "state": "on",
                "parts": [
                    component(Component::Overlay, "overlay", "on", module(Component::Overlay)),
                    component(Component::Seam, "seam", "on", module(Component::Seam)),
                    component(Component::Helper, "helper", "off", json!(null)),
                ],
                "versions": {"PVE::Tunnel::Overlay": "7.8.9", "PVE::Tunnel::Seam": "7.8.9"},
                "daemons": [{
                    "name": "pvedaemon", "pid": null, "processes": 0, "current": 0, "outdated": 0,
                    "unreadable": 0,
                }],
                "reload_pending": false,
                "proxmox_ve": true,
                "problems": [],
            })
        );
    });
}

#[test]
fn each_damage_is_a_problem_with_its_remedy() {
    type Damage = fn(&Tree);
    #[rustfmt::skip] // One row a line.
    let table: [(&str, Damage, ComponentState, &str); 7] = [
        ("a module that is not supported any more", |tree| tree.write(&Component::Seam.distrib(), &shaped(Component::Seam, "two", "another")), ComponentState::On, "seam: its shape is 'another'; migrations use the stock tunnel"),
        ("a damaged stock module", |tree| tree.write(&Component::Seam.distrib(), "1 +;\n"), ComponentState::On, "install libpve-guest-common-perl again"),
        ("the seam is not installed", |tree| tree.remove("/usr/share/perl5/PVE/Tunnel/Seam.pm"), ComponentState::On, "seam: Can't locate PVE/Tunnel/Seam.pm"),
        ("no replacement", |tree| tree.remove(Component::Seam.replacement()), ComponentState::On, "is missing: install the package pve-tunnel again"),
        ("a replacement that does nothing", |tree| tree.write(Component::Seam.replacement(), &format!("require '{}';\n1;\n", tree.at(&Component::Seam.distrib()).display())), ComponentState::On, "does not put it into effect"),
        ("no stock module", |tree| tree.remove(&Component::Seam.distrib()), ComponentState::Broken, "is not installed: 'pve-tunnel disable'"),
        ("no diversion", |tree| { tree.dpkg("dpkg-divert", &["--no-rename", "--remove", Component::Seam.path()]); }, ComponentState::Broken, "incomplete: run 'pve-tunnel enable'"),
    ];
    for (name, damage, state, expected) in table {
        with_tree(|tree| {
            tree.node.enable(Scope::Modules).unwrap();
            damage(tree);
            let status = tree.node.status().unwrap();
            assert_eq!(status.components[1].state, state, "{name}");
            assert!(
                status.problems.iter().any(|line| line.contains(expected)),
                "{name}: {:?}",
                status.problems
            );
            let lines = status.to_string();
            assert!(lines.contains("\nPROBLEM: seam: "), "{name}: {lines}");
        });
    }
}

#[test]
fn an_unsupported_module_is_not_a_problem_while_off() {
    with_tree(|tree| {
        tree.write(
            Component::Overlay.path(),
            &shaped(Component::Overlay, "two", "another"),
        );
        let status = tree.node.status().unwrap();
        assert_eq!(status.problems, Vec::<String>::new());
        let module = status.components[0].module.as_ref().unwrap();
        assert_eq!(
            module.refusal.as_deref(),
            Some("its shape is 'another'"),
            "the reason is reported"
        );
    });
}

#[test]
fn overlay_without_seam_is_a_problem() {
    with_tree(|tree| {
        tree.node.enable(Scope::Modules).unwrap();
        let steps = [
            pve_tunnel_cli::activation::Step::RestoreStock,
            pve_tunnel_cli::activation::Step::RemoveDiversion,
        ];
        for step in steps {
            tree.node.perform(Component::Seam, step).unwrap();
        }
        let status = tree.node.status().unwrap();
        assert_eq!(status.state, NodeState::Mixed);
        assert!(status.problems[0].contains("do not match"));
    });
}

#[test]
fn the_libraries_that_daemons_have_loaded_are_reported() {
    with_tree(|tree| {
        let library = tree.at("/libpve_tunnel.so.0");
        fs::copy(built_library(), &library).unwrap();
        let with = RunningDaemon::start(tree, "pvedaemon", Some(&library));
        let daemon = |state| {
            let status = tree.node.status().unwrap();
            assert_eq!(status.state, state);
            (status.daemons[0].clone(), status.problems)
        };
        let expected = DaemonStatus {
            name: "pvedaemon",
            pid: Some(with.pid()),
            processes: 2,
            current: 2,
            outdated: 0,
            unreadable: 0,
        };
        let (found, problems) = daemon(NodeState::Off);
        assert_eq!(found, expected);
        assert!(
            problems[0].contains("2 of 2 processes still have pve-tunnel's library"),
            "{problems:?}"
        );
        tree.node.enable(Scope::Modules).unwrap();
        assert_eq!(daemon(NodeState::On), (expected, vec![]));

        // An upgrade removes the old file, too.
        fs::remove_file(&library).unwrap();
        let (found, problems) = daemon(NodeState::On);
        assert_eq!((found.current, found.outdated), (0, 2));
        assert!(
            problems[0].contains("2 of 2 processes have not loaded pve-tunnel's library"),
            "{problems:?}"
        );
        assert!(
            problems[0].contains("systemctl reload pvedaemon"),
            "{problems:?}"
        );
        drop(with);
        let (found, problems) = daemon(NodeState::On);
        assert_eq!((found.pid, problems), (None, vec![]), "not running");

        let without = RunningDaemon::start(tree, "pvedaemon", None);
        let (found, problems) = daemon(NodeState::On);
        assert_eq!((found.processes, found.current), (2, 0));
        assert!(
            problems[0].contains("2 of 2 processes have not loaded pve-tunnel's library"),
            "{problems:?}"
        );
        tree.node.disable().unwrap();
        assert_eq!(daemon(NodeState::Off).1, Vec::<String>::new());
        drop(without);

        let _other = RunningDaemon::start(tree, "another", None);
        assert_eq!(
            daemon(NodeState::Off).0.pid,
            None,
            "another process has the ID of the daemon"
        );
    });
}

/// A process with a given name and its child. Either both have loaded the library or neither.
pub(crate) struct RunningDaemon(Child);

impl RunningDaemon {
    pub(crate) fn start(tree: &Tree, name: &str, library: Option<&Path>) -> Self {
        let program = "$0 = shift; $| = 1; \
             if (@ARGV) { require DynaLoader; DynaLoader::dl_load_file($ARGV[0]) or die }; \
             my $child = fork() // die; \
             print \"ready\\n\"; readline(STDIN); waitpid($child, 0) if $child;";
        let mut daemon = Command::new("perl")
            .args(["-e", program, name])
            .args(library)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(daemon.stdout.take().unwrap());
        assert_eq!(output.lines().take(2).map(Result::unwrap).count(), 2);
        tree.write(
            &format!("/run/{}.pid", "pvedaemon"),
            &format!("{}\n", daemon.id()),
        );
        Self(daemon)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for RunningDaemon {
    fn drop(&mut self) {
        // Both processes end when their standard input is closed.
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// The shared library, which cargo builds as a dependency of this test, in the same directory.
fn built_library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.with_file_name("libpve_tunnel.so")
}

#[test]
fn the_trigger_is_processed_at_once_or_by_the_running_dpkg() {
    with_tree_of_root(|tree| {
        tree.install(
            "interested",
            "1",
            &[("DEBIAN/triggers", "interest-noawait pve-api-updates\n")],
        );
        let pending = || {
            let status = tree.read("/var/lib/dpkg/status");
            let unincorporated = tree.read("/var/lib/dpkg/triggers/Unincorp");
            status.contains("triggers-pending") || unincorporated.contains("pve-api-updates")
        };
        let report = tree.node.enable(Scope::Modules).unwrap();
        assert!(
            matches!(report.reload, Some(Ok(Reload::Done))),
            "{report:?}"
        );
        assert!(!pending());

        // The locks that a running dpkg holds. A program that runs dpkg holds only the first.
        for name in ["lock-frontend", "lock"] {
            let held = fs::File::create(tree.at(&format!("/var/lib/dpkg/{name}"))).unwrap();
            let whole = nix::libc::flock {
                l_type: nix::libc::F_WRLCK as i16,
                l_whence: nix::libc::SEEK_SET as i16,
                l_start: 0,
                l_len: 0,
                l_pid: 0,
            };
            nix::fcntl::fcntl(&held, nix::fcntl::FcntlArg::F_SETLK(&whole)).unwrap();
            let report = tree.node.disable().unwrap();
            assert!(
                matches!(report.reload, Some(Ok(Reload::Deferred))),
                "{name}: {report:?}"
            );
            assert!(report.to_string().contains("when the running dpkg ends"));
            assert!(pending(), "{name}");
            drop(held);

            let report = tree.node.enable(Scope::Modules).unwrap();
            assert!(
                matches!(report.reload, Some(Ok(Reload::Done))),
                "{name}: {report:?}"
            );
            assert!(!pending(), "{name}");
        }

        tree.node.disable().unwrap();
        let report = tree.node.enable(Scope::HelperOnly).unwrap();
        assert!(report.reload.is_none(), "no daemon has loaded the helper");
    });
}

#[test]
fn a_failed_trigger_is_reported_whatever_its_script_prints() {
    with_tree_of_root(|tree| {
        tree.install(
            "interested",
            "1",
            &[("DEBIAN/triggers", "interest-noawait pve-api-updates\n")],
        );
        // dpkg runs the script in the tree, which contains neither a shell nor libraries.
        let source = tree.at("/postinst.c");
        fs::write(
            &source,
            "#include <stdio.h>\n\
             int main(void) { fputs(\"locked by another process\\n\", stderr); return 1; }\n",
        )
        .unwrap();
        let compiled = Command::new("cc")
            .args(["-static", "-o"])
            .args([&tree.at("/var/lib/dpkg/info/interested.postinst"), &source])
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{compiled:?}");

        let report = tree.node.enable(Scope::Modules).unwrap();
        let error = report.reload.unwrap().unwrap_err().to_string();
        assert!(
            error.contains("dpkg --triggers-only --pending failed"),
            "{error}"
        );
        assert_eq!(tree.node.status().unwrap().state, NodeState::On);
    });
}

#[test]
fn components_stay_on_if_the_daemons_cannot_be_reloaded() {
    with_tree(|tree| {
        // dpkg-trigger cannot open a directory as its lock file. dpkg-divert does not use this
        // file.
        fs::create_dir(tree.at("/var/lib/dpkg/triggers/Lock")).unwrap();
        let report = tree.node.enable(Scope::Modules).unwrap();
        let error = report.reload.unwrap().unwrap_err().to_string();
        assert!(error.contains("dpkg-trigger failed"), "{error}");
        assert_eq!(tree.node.status().unwrap().state, NodeState::On);
    });
}

#[test]
fn switching_requires_root_and_wrong_arguments_end_with_code_2() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join("pve-tunnel");
    // Another process copies the program. If this process wrote it, a child of a test that runs at
    // the same time could inherit the descriptor, and the kernel does not execute a file that is
    // open for writing.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_pve-tunnel"))
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&copy);
        if nix::unistd::geteuid().is_root() {
            // The user and the group of nobody.
            command.uid(65_534).gid(65_534);
        }
        command.args(arguments).output().unwrap()
    };
    for arguments in [&["enable"][..], &["enable", "--helper-only"], &["disable"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            stderr, "pve-tunnel: only root can switch pve-tunnel on and off: run this as root\n",
            "{arguments:?}"
        );
    }
    for arguments in [
        &["status", "extra"][..],
        &["enable", "--no-such"],
        &["enabel"],
    ] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

/// With `head`, for example: the reader ends before the command has printed everything.
#[test]
fn a_closed_pipe_at_standard_output_is_not_an_error() {
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["--help"],
        &["--version"],
    ] {
        let run = |stdout: Stdio| {
            let command = Command::new(env!("CARGO_BIN_EXE_pve-tunnel"))
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(stdout)
                .stderr(Stdio::piped())
                .output();
            let output = command.unwrap();
            (
                output.status.code(),
                String::from_utf8(output.stderr).unwrap(),
            )
        };
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        let expected = (run(Stdio::null()).0, String::new());
        assert_eq!(run(writer.into()), expected, "{arguments:?}");
    }
    // Other errors are reported.
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pve-tunnel"))
        .arg("status")
        .stdout(full)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("cannot write to standard output: No space left"),
        "{stderr}"
    );
}
