//! `enable` and `disable`, with the real dpkg-divert and Perl, each test in a directory tree of its
//! own.

use crate::node_tree::{Tree, shaped, stock, with_tree};
use pve_tunnel_cli::activation::{
    ActivationError, Component, ComponentState, DesiredState, NodeState, Scope, steps_for,
};
use std::fs;
use std::path::Path;

/// Checks the link, the stock file and the diversion of a component that is on.
fn assert_on(tree: &Tree, component: Component, version: &str) {
    assert_eq!(
        tree.link_of(component).as_deref(),
        Some(Path::new(component.link())),
        "{component}"
    );
    assert_eq!(
        tree.read(&component.distrib()),
        stock(component, version),
        "{component}"
    );
    let diversion = format!(
        "diversion of {} to {} by pve-tunnel",
        component.path(),
        component.distrib()
    );
    assert!(tree.diversions().contains(&diversion), "{component}");
    // The relative link leads to the replacement.
    let resolved = fs::canonicalize(tree.at(component.path())).unwrap();
    assert_eq!(
        resolved,
        fs::canonicalize(tree.at(component.replacement())).unwrap()
    );
}

fn assert_off(tree: &Tree, component: Component, version: &str) {
    assert_eq!(tree.link_of(component), None, "{component}");
    assert_eq!(
        tree.read(component.path()),
        stock(component, version),
        "{component}"
    );
    assert!(!tree.exists(&component.distrib()), "{component}");
    assert!(
        tree.diversions()
            .iter()
            .all(|line| !line.contains(component.path())),
        "{component}"
    );
}

#[test]
fn each_command_leads_from_every_state_to_its_own_and_disable_restores_every_file() {
    with_tree(|tree| {
        let before = tree.listing();
        let on = [Component::Overlay, Component::Seam];
        let switch = |state: &str| match state {
            "on" => tree.node.enable(Scope::Modules).unwrap(),
            "helper" => tree.node.enable(Scope::HelperOnly).unwrap(),
            _ => tree.node.disable().unwrap(),
        };
        let states = ["off", "on", "helper"];
        for from in states {
            for to in states {
                switch(from);
                let report = switch(to);
                assert_eq!(report.changes.is_empty(), from == to, "{from} to {to}");
                let modules = (from == "on") != (to == "on");
                assert_eq!(report.reload.is_some(), modules, "{from} to {to}");
                for component in Component::ALL {
                    let is_on = match to {
                        "on" => on.contains(&component),
                        "helper" => component == Component::Helper,
                        _ => false,
                    };
                    match is_on {
                        true => assert_on(tree, component, "one"),
                        false => assert_off(tree, component, "one"),
                    }
                }
                let twice = switch(to);
                assert!(twice.changes.is_empty(), "{from} to {to}, twice");
                assert!(
                    twice
                        .to_string()
                        .starts_with("nothing to change: pve-tunnel is ")
                );
                if to == "off" {
                    tree.assert_listing(&before, &format!("{from} to {to}"));
                }
            }
        }
    });
}

/// Interrupts each command after each step, with and without an upgrade by dpkg at that moment.
/// Then each command must lead to its state.
#[test]
fn the_next_run_completes_or_reverses_an_interrupted_run() {
    for interrupted in [DesiredState::On, DesiredState::Off] {
        for (count, upgraded) in (0..4).flat_map(|count| [(count, false), (count, true)]) {
            for next in [DesiredState::On, DesiredState::Off] {
                with_tree(|tree| interrupt(tree, interrupted, count, upgraded, next));
            }
        }
    }
}

fn interrupt(
    tree: &Tree,
    interrupted: DesiredState,
    count: usize,
    upgraded: bool,
    next: DesiredState,
) {
    let component = Component::Overlay;
    let before = tree.listing();
    if interrupted == DesiredState::Off {
        tree.node.enable(Scope::Modules).unwrap();
    }
    let steps = steps_for(
        component,
        &tree.node.inspect(component).unwrap(),
        interrupted,
    )
    .unwrap();
    for step in steps.iter().take(count) {
        tree.node.perform(component, *step).unwrap();
        assert!(tree.at(component.path()).exists(), "after {step:?}");
    }
    // What the next step has created but not renamed yet.
    std::os::unix::fs::symlink(
        "nowhere",
        tree.at(&format!("{}.pve-tunnel-new", component.path())),
    )
    .unwrap();
    tree.write(
        &format!("{}.distrib.pve-tunnel-new", component.path()),
        "half a co",
    );
    let name = format!("{interrupted:?}, {count} steps, upgraded: {upgraded}, then {next:?}");
    if upgraded {
        tree.unpack(component, "two");
    }
    let version = if upgraded { "two" } else { "one" };
    match next {
        DesiredState::On => {
            tree.node.enable(Scope::Modules).unwrap();
            assert_on(tree, component, version);
            assert_on(tree, Component::Seam, "one");
        }
        DesiredState::Off => {
            tree.node.disable().unwrap();
            assert_eq!(
                tree.read(component.path()),
                stock(component, version),
                "{name}"
            );
            let mut expected = before.clone();
            expected.insert(
                tree.at(component.path()),
                format!("file: {}", stock(component, version)),
            );
            tree.assert_listing(&expected, &name);
        }
    }
    assert!(
        !tree.exists(&format!("{}.pve-tunnel-new", component.path())),
        "{name}"
    );
}

#[test]
fn the_stock_package_is_upgraded_and_removed_while_on() {
    with_tree(|tree| {
        tree.node.enable(Scope::Modules).unwrap();
        tree.unpack(Component::Seam, "two");
        assert_on(tree, Component::Seam, "two");
        assert!(tree.node.status().unwrap().problems.is_empty());

        tree.uninstall(Component::Overlay);
        tree.uninstall(Component::Seam);
        let status = tree.node.status().unwrap();
        assert_eq!(status.components[0].state, ComponentState::Broken);
        assert!(
            status.problems[0]
                .contains("libpve-guest-common-perl is not installed: 'pve-tunnel disable'"),
            "{:?}",
            status.problems
        );
        tree.unpack(Component::Overlay, "three");
        assert_on(tree, Component::Overlay, "three");
        tree.uninstall(Component::Overlay);

        let report = tree.node.disable().unwrap();
        let lines: Vec<String> = report.to_string().lines().map(str::to_owned).collect();
        assert_eq!(
            lines[..2],
            [
                "overlay: off; /usr/share/perl5/PVE/Tunnel.pm of libpve-guest-common-perl is not installed",
                "seam: off; /usr/share/perl5/PVE/StorageTunnel.pm of libpve-guest-common-perl is not installed",
            ]
        );
        for component in [Component::Overlay, Component::Seam] {
            assert!(
                !tree.exists(component.path()) && !tree.exists(&component.distrib()),
                "{component}"
            );
        }
        assert_eq!(tree.diversions(), Vec::<String>::new());
        assert_eq!(tree.node.status().unwrap().state, NodeState::Off);
    });
}

#[test]
fn a_refused_enable_or_disable_changes_nothing() {
    type Damage = fn(&Tree);
    let overlay = "/usr/share/perl5/PVE/Tunnel.pm";
    #[rustfmt::skip] // One row a line.
    let table: [(&str, Damage, &str); 12] = [
        ("a stray file", |tree| tree.write("/usr/share/perl5/PVE/StorageTunnel.pm.distrib", "x"), "StorageTunnel.pm.distrib exists"),
        ("a diversion by another package", |tree| { tree.dpkg("dpkg-divert", &["--no-rename", "--package", "other", "--divert", "/usr/share/perl5/PVE/StorageTunnel.pm.other", "--add", "/usr/share/perl5/PVE/StorageTunnel.pm"]); }, "for the package other"),
        ("a local diversion", |tree| { tree.dpkg("dpkg-divert", &["--no-rename", "--local", "--divert", "/usr/share/perl5/PVE/StorageTunnel.pm.mine", "--add", "/usr/share/perl5/PVE/StorageTunnel.pm"]); }, "for the local administrator"),
        ("a diversion of another file to our .distrib", |tree| { tree.dpkg("dpkg-divert", &["--no-rename", "--package", "other", "--divert", "/usr/share/perl5/PVE/StorageTunnel.pm.distrib", "--add", "/usr/share/perl5/PVE/Other.pm"]); }, "for the package other"),
        ("a link to another file", |tree| { tree.remove("/usr/share/perl5/PVE/StorageTunnel.pm"); std::os::unix::fs::symlink("/opt/x.pm", tree.at("/usr/share/perl5/PVE/StorageTunnel.pm")).unwrap(); }, "symbolic link to '/opt/x.pm'"),
        ("a directory", |tree| { tree.remove("/usr/share/perl5/PVE/StorageTunnel.pm"); fs::create_dir(tree.at("/usr/share/perl5/PVE/StorageTunnel.pm")).unwrap(); }, "is not a file"),
        ("no stock file", |tree| tree.remove("/usr/share/perl5/PVE/StorageTunnel.pm"), "is not installed"),
        ("no replacement", |tree| tree.remove("/usr/share/pve-tunnel/perl5/PVE/StorageTunnel.pm"), "is missing"),
        ("an unsupported module", |tree| tree.write("/usr/share/perl5/PVE/StorageTunnel.pm", &shaped(Component::Seam, "one", "another")), "its shape is 'another'"),
        ("the first module unsupported", |tree| tree.write("/usr/share/perl5/PVE/Tunnel.pm", &shaped(Component::Overlay, "one", "another")), "its shape is 'another'"),
        ("a module that does not compile", |tree| tree.write("/usr/share/perl5/PVE/StorageTunnel.pm", "package PVE::StorageTunnel;\n1 +;\n"), "syntax error"),
        ("the seam is not installed", |tree| tree.remove("/usr/share/perl5/PVE/Tunnel/Seam.pm"), "Can't locate PVE/Tunnel/Seam.pm"),
    ];
    for (name, damage, expected) in table {
        with_tree(|tree| {
            damage(tree);
            let before = tree.listing();
            let error = tree.node.enable(Scope::Modules).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
            assert!(error.contains("Nothing was changed"), "{name}: {error}");
            tree.assert_listing(&before, name);
            let report = tree.node.disable().unwrap();
            assert!(report.changes.is_empty(), "{name}");
            tree.assert_listing(&before, &format!("{name}, disable"));
        });
    }
    with_tree(|tree| {
        tree.node.enable(Scope::Modules).unwrap();
        tree.remove(overlay);
        std::os::unix::fs::symlink("/opt/x.pm", tree.at(overlay)).unwrap();
        let before = tree.listing();
        let error = tree.node.disable().unwrap_err();
        assert!(
            matches!(
                error,
                ActivationError::Refused {
                    component: Component::Overlay,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(
            tree.listing(),
            before,
            "a link to another file in place of ours"
        );
    });
}

/// `PVE::StorageTunnel` of libpve-guest-common-perl up to 5.1.1 uses an option that qemu-server
/// registers, and does not load qemu-server.
#[test]
fn a_stock_module_that_requires_qemu_server_is_supported() {
    with_tree(|tree| {
        let stock = stock(Component::Seam, "5.1.1");
        let requires = "die qq(no such standard option 'pve-qm-image-format'\n) if !$PVE::QemuServer::Drive::REGISTERED;\n1;\n";
        tree.write(Component::Seam.path(), &stock.replace("1;\n", requires));
        let error = tree.node.enable(Scope::Modules).unwrap_err().to_string();
        assert_eq!(
            error,
            "Perl cannot load the stock module of the seam: no such standard option \
             'pve-qm-image-format'. Install libpve-guest-common-perl again, or a newer version of \
             it. Nothing was changed"
        );

        tree.write(
            "/usr/share/perl5/PVE/QemuServer/Drive.pm",
            "package PVE::QemuServer::Drive;\nour $REGISTERED = 1;\n1;\n",
        );
        tree.node.enable(Scope::Modules).unwrap();
        let status = tree.node.status().unwrap();
        assert_eq!(status.state, NodeState::On);
        assert_eq!(status.problems, Vec::<String>::new());
        assert!(status.components[1].module.as_ref().unwrap().in_effect);
    });
}

#[test]
fn a_failure_of_one_component_restores_the_previous_state_of_all() {
    with_tree(|tree| {
        tree.node.enable(Scope::HelperOnly).unwrap();
        // A directory has the name that a new link has until it is renamed.
        let blocked = tree.at("/usr/share/perl5/PVE/StorageTunnel.pm.pve-tunnel-new");
        fs::create_dir(&blocked).unwrap();
        let before = tree.listing();
        let error = tree.node.enable(Scope::Modules).unwrap_err();
        assert!(
            matches!(error, ActivationError::RolledBack { .. }),
            "{error}"
        );
        assert!(error.to_string().contains("StorageTunnel.pm"), "{error}");
        tree.assert_listing(&before, "rolled back");

        fs::remove_dir(&blocked).unwrap();
        // The helper is the last component and is switched off. A file cannot replace a directory.
        let helper = "/usr/bin/proxmox-websocket-tunnel.distrib.pve-tunnel-new";
        fs::create_dir(tree.at(helper)).unwrap();
        let before = tree.listing();
        let error = tree.node.enable(Scope::Modules).unwrap_err();
        assert!(
            matches!(error, ActivationError::RolledBack { .. }),
            "{error}"
        );
        tree.assert_listing(&before, "rolled back");

        fs::remove_dir(tree.at(helper)).unwrap();
        tree.node.enable(Scope::Modules).unwrap();
        assert_on(tree, Component::Seam, "one");
        assert_off(tree, Component::Helper, "one");
    });
}

#[test]
fn disable_requires_neither_perl_nor_the_replacements() {
    with_tree(|tree| {
        tree.node.enable(Scope::Modules).unwrap();
        fs::remove_dir_all(tree.at("/usr/share/pve-tunnel")).unwrap();
        fs::remove_dir_all(tree.at("/usr/share/perl5/PVE/Tunnel")).unwrap();
        tree.unpack(Component::Overlay, "two");
        tree.node.disable().unwrap();
        assert_off(tree, Component::Overlay, "two");
        assert_off(tree, Component::Seam, "one");
    });
}

#[test]
fn a_second_run_at_the_same_time_is_refused() {
    with_tree(|tree| {
        let directory = fs::File::open(tree.at("/usr")).unwrap();
        let lock = nix::fcntl::Flock::lock(directory, nix::fcntl::FlockArg::LockExclusive).unwrap();
        assert!(matches!(
            tree.node.enable(Scope::Modules),
            Err(ActivationError::Busy)
        ));
        assert!(matches!(tree.node.disable(), Err(ActivationError::Busy)));
        drop(lock);
        tree.node.enable(Scope::Modules).unwrap();
    });
}

#[test]
fn there_is_a_complete_file_at_the_path_at_every_moment() {
    with_tree(|tree| {
        let path = tree.at(Component::Seam.path());
        std::thread::scope(|scope| {
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            let reader = scope.spawn(move || {
                let mut read = 0;
                while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    let text = fs::read_to_string(&path).unwrap();
                    assert!(text.contains("\n1;\n"), "incomplete file: {text}");
                    read += 1;
                }
                read
            });
            for _ in 0..5 {
                tree.node.enable(Scope::Modules).unwrap();
                tree.node.disable().unwrap();
            }
            drop(stop);
            assert!(reader.join().unwrap() > 100);
        });
    });
}
