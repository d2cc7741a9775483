//! A directory tree with the files and the dpkg database of a node, for the real dpkg.

use pve_tunnel_cli::activation::{Component, Node};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Endings of dpkg's own files that are not compared: locks and previous versions.
const NOT_COMPARED: [&str; 4] = ["-old", "/lock", "/lock-frontend", "/Lock"];

/// The overlay and the seam, each with its stock module. The tree has fakes of them, which support
/// a stock module if its $SHAPE is 'known'.
const OURS: [(&str, &str); 2] = [("Overlay", "PVE::Tunnel"), ("Seam", "PVE::StorageTunnel")];

pub(crate) struct Tree {
    directory: TempDir,
    pub(crate) node: Node,
}

/// Runs a test, unless dpkg-divert is not installed.
#[track_caller]
pub(crate) fn with_tree(test: impl FnOnce(&Tree)) {
    if Command::new("dpkg-divert")
        .arg("--version")
        .output()
        .is_err()
    {
        testing::report_skipped("all of it", &"dpkg-divert is not installed");
        return;
    }
    test(&Tree::new());
}

/// Runs a test in which dpkg installs packages or processes triggers, which it does only for root.
#[track_caller]
pub(crate) fn with_tree_of_root(test: impl FnOnce(&Tree)) {
    if !nix::unistd::geteuid().is_root() {
        testing::report_skipped(
            "all of it",
            &"only root's dpkg installs packages and processes triggers",
        );
        return;
    }
    with_tree(test);
}

impl Tree {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tree = Self {
            node: Node::with_root(directory.path().to_owned()),
            directory,
        };
        for empty in ["info", "updates", "triggers"] {
            fs::create_dir_all(tree.at(&format!("/var/lib/dpkg/{empty}"))).unwrap();
        }
        for file in ["status", "available", "diversions"] {
            tree.write(&format!("/var/lib/dpkg/{file}"), "");
        }
        // dpkg creates these files when it first writes.
        tree.write("/var/lib/dpkg/info/format", "1\n");
        tree.write("/var/lib/dpkg/triggers/Unincorp", "");
        for component in Component::ALL {
            tree.write(component.path(), &stock(component, "one"));
            tree.write(component.replacement(), &tree.replacement(component));
        }
        for (ours, stock) in OURS {
            let module = format!(
                "package PVE::Tunnel::{ours};\nour $VERSION = '7.8.9';\nmy $installed = 0;\n\
                 sub install {{ die \"its shape is '${stock}::SHAPE'\\n\" if ${stock}::SHAPE ne 'known'; $installed = 1 }}\n\
                 sub status {{ {{ installed => $installed }} }}\n1;\n"
            );
            tree.write(&format!("/usr/share/perl5/PVE/Tunnel/{ours}.pm"), &module);
        }
        tree
    }

    /// The replacement that the package pve-tunnel installs, with the paths of this tree.
    fn replacement(&self, component: Component) -> String {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../perl/diverted");
        match component {
            Component::Helper => "the command".to_owned(),
            Component::Overlay | Component::Seam => {
                let name = Path::new(component.path()).file_name().unwrap();
                let text = fs::read_to_string(source.join("PVE").join(name)).unwrap();
                let distrib = self.at(&component.distrib());
                text.replace(&component.distrib(), distrib.to_str().unwrap())
            }
        }
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.at(path)).is_ok()
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.at(path)).unwrap();
    }

    pub(crate) fn link_of(&self, component: Component) -> Option<PathBuf> {
        fs::read_link(self.at(component.path())).ok()
    }

    /// Every file, link and directory, with its kind and content.
    pub(crate) fn listing(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        list(self.directory.path(), &mut found);
        found.retain(|path, _| {
            let path = path.to_str().unwrap();
            // Only root's dpkg processes triggers: for other users they stay in this file.
            (nix::unistd::geteuid().is_root() || !path.ends_with("/Unincorp"))
                && !NOT_COMPARED.iter().any(|end| path.ends_with(end))
        });
        found
    }

    /// Checks that the tree is the same as an earlier listing.
    pub(crate) fn assert_listing(&self, before: &BTreeMap<PathBuf, String>, name: &str) {
        let now = self.listing();
        let paths = before.keys().chain(now.keys());
        let changed: Vec<_> = paths
            .filter(|path| before.get(*path) != now.get(*path))
            .map(|path| (path, before.get(path), now.get(path)))
            .collect();
        assert!(changed.is_empty(), "{name}: {changed:#?}");
    }

    /// Runs one of dpkg's programs on the tree and returns what it printed.
    pub(crate) fn dpkg(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program)
            .env("LC_ALL", "C")
            .arg("--root")
            .arg(self.directory.path())
            .args(arguments)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn diversions(&self) -> Vec<String> {
        let listed = self.dpkg("dpkg-divert", &["--list"]);
        listed.lines().map(str::to_owned).collect()
    }

    /// Unpacks a version of a stock file as dpkg does: it writes a file with another name and
    /// renames it to the path that the diversion gives.
    pub(crate) fn unpack(&self, component: Component, version: &str) {
        let to = self.dpkg("dpkg-divert", &["--truename", component.path()]);
        let to = to.trim_end();
        self.write(&format!("{to}.dpkg-new"), &stock(component, version));
        fs::rename(self.at(&format!("{to}.dpkg-new")), self.at(to)).unwrap();
    }

    /// Removes a stock file as dpkg does, from the path that the diversion gives.
    pub(crate) fn uninstall(&self, component: Component) {
        let from = self.dpkg("dpkg-divert", &["--truename", component.path()]);
        let _ = fs::remove_file(self.at(from.trim_end()));
    }

    /// Builds a package of these files and installs it.
    pub(crate) fn install(&self, name: &str, version: &str, files: &[(&str, &str)]) {
        let made = tempfile::tempdir().unwrap();
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@example.org>\nDescription: test\n"
        );
        for (path, content) in [("DEBIAN/control", control.as_str())].iter().chain(files) {
            let path = made.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            if path.ends_with("DEBIAN/postinst") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        fs::set_permissions(made.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let package = self.at(&format!("/{name}.deb"));
        let built = Command::new("dpkg-deb")
            .args(["--root-owner-group", "--build"])
            .args([made.path(), &package])
            .output()
            .unwrap();
        assert!(built.status.success(), "{built:?}");
        self.dpkg("dpkg", &["--install", package.to_str().unwrap()]);
        fs::remove_file(package).unwrap();
    }
}

/// A stock file. For a module, the shape is supported.
pub(crate) fn stock(component: Component, version: &str) -> String {
    shaped(component, version, "known")
}

pub(crate) fn shaped(component: Component, version: &str, shape: &str) -> String {
    let name = match component {
        Component::Overlay => "PVE::Tunnel",
        Component::Seam => "PVE::StorageTunnel",
        Component::Helper => return format!("the helper, {version}"),
    };
    format!("package {name};\nour $VERSION = '{version}';\nour $SHAPE = '{shape}';\n1;\n")
}

fn list(directory: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = if metadata.is_dir() {
            list(&path, found);
            "directory".to_owned()
        } else if metadata.is_symlink() {
            format!("link to {}", fs::read_link(&path).unwrap().display())
        } else {
            format!("file: {}", fs::read_to_string(&path).unwrap())
        };
        found.insert(path, kind);
    }
}
