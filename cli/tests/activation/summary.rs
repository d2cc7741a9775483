//! What an operator reads first: the first line of `status`, and the line about daemons of `enable`
//! and `disable`.

use crate::node_tree::{Tree, shaped, with_tree, with_tree_of_root};
use crate::status::RunningDaemon;
use pve_tunnel_cli::activation::{Component, Scope};
use std::fs;

fn first_line(tree: &Tree) -> String {
    let status = tree.node.status().unwrap();
    status
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn the_first_line_reports_modules_that_are_on_and_not_in_effect() {
    let overlay = Component::Overlay;
    let seam = Component::Seam;
    for (broken, expected) in [
        (&[][..], "pve-tunnel is on"),
        (
            &[overlay],
            "pve-tunnel is on, but migrations from this node use the stock tunnel",
        ),
        (
            &[seam],
            "pve-tunnel is on, but migrations to this node use the stock tunnel",
        ),
        (
            &[overlay, seam],
            "pve-tunnel is on, but migrations from and to this node use the stock tunnel",
        ),
    ] {
        with_tree(|tree| {
            tree.node.enable(Scope::Modules).unwrap();
            for component in broken {
                let unsupported = shaped(*component, "two", "another");
                tree.write(&component.distrib(), &unsupported);
            }
            assert_eq!(first_line(tree), expected);
        });
    }
}

#[test]
fn a_machine_without_the_stock_modules_is_not_a_node() {
    with_tree(|tree| {
        assert_eq!(first_line(tree), "pve-tunnel is off");
        let json = |tree: &Tree| serde_json::to_value(tree.node.status().unwrap()).unwrap();
        assert_eq!(json(tree)["proxmox_ve"], true);
        // While it is on, the missing file is a problem with a remedy of its own.
        tree.node.enable(Scope::Modules).unwrap();
        for component in [Component::Overlay, Component::Seam] {
            tree.uninstall(component);
        }
        assert!(!first_line(tree).contains("not a Proxmox VE node"));

        tree.node.disable().unwrap();
        assert_eq!(
            first_line(tree),
            "pve-tunnel is off: this is not a Proxmox VE node (libpve-guest-common-perl is not \
             installed)"
        );
        let status = json(tree);
        assert_eq!(status["proxmox_ve"], false);
        assert_eq!(status["problems"], serde_json::json!([]));
    });
}

#[test]
fn only_a_running_daemon_is_reported_as_reloaded() {
    with_tree_of_root(|tree| {
        let line = |report: String| {
            let line = report.lines().find(|line| line.starts_with("daemons: "));
            line.unwrap_or_default().to_owned()
        };
        let report = tree.node.enable(Scope::Modules).unwrap().to_string();
        assert_eq!(
            line(report),
            "daemons: none to reload, because pvedaemon is not running"
        );
        let daemon = RunningDaemon::start(tree, "pvedaemon", None);
        let report = tree.node.disable().unwrap().to_string();
        assert_eq!(
            line(report),
            "daemons: reloaded by the trigger pve-api-updates"
        );
        drop(daemon);
    });
}

#[test]
fn an_invalid_configuration_file_is_a_problem() {
    with_tree(|tree| {
        let file = "/etc/pve/remote-migration.cfg";
        tree.write(file, "network: dc2\n\tsource vmbr1\n");
        assert_eq!(
            tree.node.status().unwrap().problems,
            Vec::<String>::new(),
            "a valid file"
        );
        tree.write(file, "network: dc2\n\tsorce vmbr1\n");
        let path = tree.at(file);
        let problems = tree.node.status().unwrap().problems;
        assert_eq!(
            problems,
            [format!(
                "{}: line 2: unknown key 'sorce' in network 'dc2'; no migration to another cluster \
                 starts until it is corrected; 'pve-tunnel config' checks the file",
                path.display()
            )]
        );
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let problems = tree.node.status().unwrap().problems;
        let expected = format!("cannot read {}: Is a directory", path.display());
        assert!(problems[0].starts_with(&expected), "{problems:?}");
    });
}
