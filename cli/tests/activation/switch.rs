//! Switching on and off, on a tree of a test's own, with the real dpkg-divert and Perl.

use crate::node_tree::{Tree, shaped, stock, with_tree};
use pve_tunnel_cli::activation::{
    ActivationError, Component, ComponentState, DesiredState, NodeState, Scope, steps_for,
};
use std::fs;
use std::path::Path;

/// What `enable` leaves, written out: links, stock files, diversions.
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
    // The link leads to the stand-in from where it is.
    let through = fs::canonicalize(tree.at(component.path())).unwrap();
    assert_eq!(
        through,
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
fn each_command_ends_in_its_state_and_disable_leaves_no_trace() {
    with_tree(|tree| {
        let before = tree.listing();
        let on = [Component::Overlay, Component::Seam];
        let all = |state: &str| match state {
            "on" => tree.node.enable(Scope::Modules).unwrap(),
            "helper" => tree.node.enable(Scope::HelperOnly).unwrap(),
            _ => tree.node.disable().unwrap(),
        };
        let states = ["off", "on", "helper"];
        for from in states {
            for to in states {
                all(from);
                let report = all(to);
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
                let twice = all(to);
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

/// Cut off between any two steps, upgraded by dpkg there or not, either command brings it in order.
#[test]
fn a_run_that_was_cut_off_is_brought_in_order_by_the_next() {
    for way in [DesiredState::On, DesiredState::Off] {
        for (count, upgraded) in (0..4).flat_map(|count| [(count, false), (count, true)]) {
            for next in [DesiredState::On, DesiredState::Off] {
                with_tree(|tree| cut_off(tree, way, count, upgraded, next));
            }
        }
    }
}

fn cut_off(tree: &Tree, way: DesiredState, count: usize, upgraded: bool, next: DesiredState) {
    let component = Component::Overlay;
    let before = tree.listing();
    if way == DesiredState::Off {
        tree.node.enable(Scope::Modules).unwrap();
    }
    let steps = steps_for(component, &tree.node.inspect(component).unwrap(), way).unwrap();
    for step in steps.iter().take(count) {
        tree.node.perform(component, *step).unwrap();
        assert!(tree.at(component.path()).exists(), "after {step:?}");
    }
    // What the next step has made so far, but not renamed.
    std::os::unix::fs::symlink(
        "nowhere",
        tree.at(&format!("{}.pve-tunnel-new", component.path())),
    )
    .unwrap();
    tree.write(
        &format!("{}.distrib.pve-tunnel-new", component.path()),
        "half a co",
    );
    let name = format!("{way:?}, {count} steps, upgraded: {upgraded}, then {next:?}");
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
fn upgrades_and_removals_of_the_stock_package_while_on() {
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

        tree.node.disable().unwrap();
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
fn what_is_refused_changes_nothing() {
    type Damage = fn(&Tree);
    let overlay = "/usr/share/perl5/PVE/Tunnel.pm";
    #[rustfmt::skip] // One row a line.
    let table: [(&str, Damage, &str); 12] = [
        ("a stray file", |tree| tree.write("/usr/share/perl5/PVE/StorageTunnel.pm.distrib", "x"), "StorageTunnel.pm.distrib exists"),
        ("another's diversion", |tree| { tree.dpkg("dpkg-divert", &["--no-rename", "--package", "other", "--divert", "/usr/share/perl5/PVE/StorageTunnel.pm.other", "--add", "/usr/share/perl5/PVE/StorageTunnel.pm"]); }, "for the package other"),
        ("a local diversion", |tree| { tree.dpkg("dpkg-divert", &["--no-rename", "--local", "--divert", "/usr/share/perl5/PVE/StorageTunnel.pm.mine", "--add", "/usr/share/perl5/PVE/StorageTunnel.pm"]); }, "for the local administrator"),
        ("a diversion to where ours would go", |tree| { tree.dpkg("dpkg-divert", &["--no-rename", "--package", "other", "--divert", "/usr/share/perl5/PVE/StorageTunnel.pm.distrib", "--add", "/usr/share/perl5/PVE/Other.pm"]); }, "for the package other"),
        ("another's link", |tree| { tree.remove("/usr/share/perl5/PVE/StorageTunnel.pm"); std::os::unix::fs::symlink("/opt/x.pm", tree.at("/usr/share/perl5/PVE/StorageTunnel.pm")).unwrap(); }, "symbolic link to '/opt/x.pm'"),
        ("a directory", |tree| { tree.remove("/usr/share/perl5/PVE/StorageTunnel.pm"); fs::create_dir(tree.at("/usr/share/perl5/PVE/StorageTunnel.pm")).unwrap(); }, "is not a file"),
        ("no stock file", |tree| tree.remove("/usr/share/perl5/PVE/StorageTunnel.pm"), "is not installed"),
        ("no stand-in", |tree| tree.remove("/usr/share/pve-tunnel/perl5/PVE/StorageTunnel.pm"), "is missing"),
        ("an unknown shape", |tree| tree.write("/usr/share/perl5/PVE/StorageTunnel.pm", &shaped(Component::Seam, "one", "another")), "its shape is 'another'"),
        ("an unknown shape of the first", |tree| tree.write("/usr/share/perl5/PVE/Tunnel.pm", &shaped(Component::Overlay, "one", "another")), "its shape is 'another'"),
        ("a module that does not compile", |tree| tree.write("/usr/share/perl5/PVE/StorageTunnel.pm", "package PVE::StorageTunnel;\n1 +;\n"), "syntax error"),
        ("ours not installed", |tree| tree.remove("/usr/share/perl5/PVE/Tunnel/Seam.pm"), "Can't locate PVE/Tunnel/Seam.pm"),
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
            "another's link in the place of ours"
        );
    });
}

#[test]
fn a_part_that_fails_takes_the_others_back_to_what_they_were() {
    with_tree(|tree| {
        tree.node.enable(Scope::HelperOnly).unwrap();
        // Nothing can be made under the name that a link has until it is renamed.
        let blocked = tree.at("/usr/share/perl5/PVE/StorageTunnel.pm.pve-tunnel-new");
        fs::create_dir(&blocked).unwrap();
        let before = tree.listing();
        let error = tree.node.enable(Scope::Modules).unwrap_err();
        assert!(
            matches!(error, ActivationError::RolledBack { .. }),
            "{error}"
        );
        assert!(error.to_string().contains("StorageTunnel.pm"), "{error}");
        tree.assert_listing(&before, "undone");

        fs::remove_dir(&blocked).unwrap();
        // The last component of three, which is to go off: a directory cannot be replaced by a file.
        let helper = "/usr/bin/proxmox-websocket-tunnel.distrib.pve-tunnel-new";
        fs::create_dir(tree.at(helper)).unwrap();
        let before = tree.listing();
        let error = tree.node.enable(Scope::Modules).unwrap_err();
        assert!(
            matches!(error, ActivationError::RolledBack { .. }),
            "{error}"
        );
        tree.assert_listing(&before, "undone");

        fs::remove_dir(tree.at(helper)).unwrap();
        tree.node.enable(Scope::Modules).unwrap();
        assert_on(tree, Component::Seam, "one");
        assert_off(tree, Component::Helper, "one");
    });
}

#[test]
fn disable_needs_neither_perl_nor_our_files() {
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
fn two_at_once_are_one_too_many() {
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
fn the_path_has_a_whole_file_at_every_moment() {
    with_tree(|tree| {
        let path = tree.at(Component::Seam.path());
        std::thread::scope(|scope| {
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            let reader = scope.spawn(move || {
                let mut read = 0;
                while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    let text = fs::read_to_string(&path).unwrap();
                    assert!(text.contains("\n1;\n"), "half a file: {text}");
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
