//! What a migration requires at the target: privileges on paths of the access control list.

use super::guest::Guest;
use super::id_map::IdMap;
use super::options::{self, Rule};
use pve_tunnel::plan;
use pve_tunnel::plane::MigrationType;

/// What a migration will do at the target, as far as it needs privileges.
#[derive(Debug, Clone)]
pub(super) struct Purpose<'a> {
    /// None if it is not known: the token needs the privileges for every kind of guest.
    pub(super) guest: Option<&'a Guest>,
    /// None if it is not known: the token needs the privileges for every VMID.
    pub(super) vmid: Option<u32>,
    pub(super) storages: Vec<String>,
    pub(super) bridges: Vec<String>,
    /// Which of them replaces one of this node.
    pub(super) bridge_map: IdMap,
    pub(super) migration_type: MigrationType,
    /// A network that is sent to the target.
    pub(super) network: Option<String>,
    /// The network is one of the target's configuration.
    pub(super) configured: bool,
}

/// A privilege on a path of the access control list, and what needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needed {
    pub(super) path: String,
    pub(super) privilege: &'static str,
    /// Another privilege on the same path, which is enough, too.
    pub(super) or: Option<&'static str>,
    pub(super) purpose: String,
}

/// Everything that the migration needs. The target checks each of them itself, some only when the
/// migration is half done.
pub(super) fn needed(purpose: &Purpose<'_>) -> Vec<Needed> {
    let guest = purpose
        .vmid
        .map_or("/vms".to_owned(), |vmid| format!("/vms/{vmid}"));
    let mut needed = vec![
        new("/", "Sys.Incoming", "to accept guests from other clusters"),
        new(
            "/",
            "Sys.Audit",
            "for 'qm remote-migrate' to find the name of the node",
        ),
        new(&guest, "VM.Allocate", "to create the guest"),
    ];
    needed.extend(match purpose.guest {
        Some(known) => for_options(known, &guest),
        None => OF_GUESTS
            .into_iter()
            .map(|(privilege, what)| new(&guest, privilege, what))
            .collect(),
    });
    let storages = purpose.storages.iter();
    needed.extend(storages.map(|storage| {
        let path = format!("/storage/{storage}");
        new(&path, "Datastore.AllocateSpace", "to create its disks")
    }));
    needed.extend(for_bridges(purpose));
    let network = purpose.network.as_deref();
    if !plan::privileges(purpose.migration_type, network, purpose.configured).is_empty() {
        let what = match purpose.migration_type {
            MigrationType::Insecure => "for clear text",
            MigrationType::Secure => {
                "for a network that is not configured there; the ID of one that is needs none"
            }
        };
        needed.push(new("/", "Sys.Modify", what));
    }
    merged(needed)
}

/// What most guests need, if it is not known which one moves.
const OF_GUESTS: [(&str, &str); 6] = [
    ("VM.Config.CPU", "to set its processors"),
    ("VM.Config.Memory", "to set its memory"),
    ("VM.Config.Disk", "to set its disks"),
    ("VM.Config.HWType", "to set its devices"),
    ("VM.Config.Network", "to set its network interfaces"),
    ("VM.Config.Options", "to set its options"),
];

/// What the options of a guest need, which has the path `path` at the target.
fn for_options(guest: &Guest, path: &str) -> Vec<Needed> {
    let mut groups: Vec<(Rule, Vec<&str>)> = Vec::new();
    for (key, rule) in options::rules(guest) {
        match groups.iter_mut().find(|(known, _)| *known == rule) {
            // Each line of the notes is one.
            Some((_, keys)) if keys.contains(&key) => {}
            Some((_, keys)) => keys.push(key),
            None => groups.push((rule, vec![key])),
        }
    }
    let needed = groups.into_iter().filter_map(|(rule, keys)| {
        let what = format!("for its {}", quoted(&keys));
        match rule {
            Rule::Guest(privilege) => Some(new(path, privilege, &what)),
            Rule::OneOf(privilege, or) => Some(Needed {
                or: Some(or),
                ..new(path, privilege, &what)
            }),
            Rule::On(path, privilege) => Some(new(&path, privilege, &what)),
            Rule::RootOnly | Rule::Unknown => None,
        }
    });
    needed.collect()
}

/// For a known guest, what its network devices need.
fn for_bridges(purpose: &Purpose<'_>) -> Vec<Needed> {
    let map = &purpose.bridge_map;
    if let Some(guest) = purpose.guest.filter(|_| map.is_certain()) {
        let paths = options::bridge_paths(guest, |bridge| bridge_path(map.target(bridge)));
        let needed = paths.into_iter().map(|(key, path)| {
            let what = format!("to connect its '{key}'");
            new(&path, "SDN.Use", &what)
        });
        return needed.collect();
    }
    let bridges = purpose.bridges.iter();
    let needed = bridges.map(|bridge| {
        let path = bridge_path(bridge);
        new(&path, "SDN.Use", "to connect it to the bridge")
    });
    needed.collect()
}

/// Each privilege once, with all its purposes.
pub(super) fn merged(needed: Vec<Needed>) -> Vec<Needed> {
    let mut merged: Vec<Needed> = Vec::new();
    for each in needed {
        let same = |known: &&mut Needed| {
            (&known.path, known.privilege, known.or) == (&each.path, each.privilege, each.or)
        };
        match merged.iter_mut().find(same) {
            Some(known) => known.purpose = format!("{}, {}", known.purpose, each.purpose),
            None => merged.push(each),
        }
    }
    merged
}

/// The path of a bridge in the access control list.
pub(super) fn bridge_path(bridge: &str) -> String {
    format!("/sdn/zones/localnetwork/{bridge}")
}

pub(super) fn new(path: &str, privilege: &'static str, purpose: &str) -> Needed {
    Needed {
        path: path.to_owned(),
        privilege,
        or: None,
        purpose: purpose.to_owned(),
    }
}

/// Such as `options 'agent', 'name' and 'tags'`.
pub(super) fn quoted(keys: &[&str]) -> String {
    let mut quoted: Vec<String> = keys.iter().map(|key| format!("'{key}'")).collect();
    match (quoted.pop(), quoted.is_empty()) {
        (Some(last), false) => format!("options {} and {last}", quoted.join(", ")),
        (last, _) => format!("option {}", last.unwrap_or_default()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::check::guest::Kind;

    fn map(text: &str) -> IdMap {
        IdMap::parse(&[text.to_owned()]).unwrap()
    }

    /// A migration of an unknown guest.
    pub(in crate::check) fn purpose() -> Purpose<'static> {
        Purpose {
            guest: None,
            vmid: Some(100),
            storages: vec!["local-zfs".to_owned()],
            bridges: vec!["vmbr0".to_owned()],
            bridge_map: map("vmbr0"),
            migration_type: MigrationType::Secure,
            network: None,
            configured: false,
        }
    }

    #[test]
    fn a_known_guest_needs_what_its_options_need() {
        let text = "cores: 2\nsockets: 1\nhostpci0: mapping=gpu\nstartup: order=1\nipconfig0: ip=dhcp\nnet0: virtio=x,bridge=vmbr3,tag=7\nargs: -S\n";
        let guest = Guest::parse(Kind::Qemu, 100, text);
        let purpose = Purpose {
            guest: Some(&guest),
            migration_type: MigrationType::Insecure,
            ..purpose()
        };
        let shown: Vec<String> = needed(&purpose)
            .iter()
            .map(|each| format!("{} {}: {}", each.path, each.privilege, each.purpose))
            .collect();
        #[rustfmt::skip] // One row a line.
        let expected = [
            "/ Sys.Incoming: to accept guests from other clusters",
            "/ Sys.Audit: for 'qm remote-migrate' to find the name of the node",
            "/vms/100 VM.Allocate: to create the guest",
            "/vms/100 VM.Config.CPU: for its options 'cores' and 'sockets'",
            "/vms/100 VM.Config.HWType: for its option 'hostpci0'",
            "/mapping/pci/gpu Mapping.Use: for its option 'hostpci0'",
            "/vms/100 VM.Config.Options: for its option 'startup'",
            "/ Sys.Modify: for its option 'startup', for clear text",
            "/vms/100 VM.Config.Cloudinit: for its option 'ipconfig0'",
            "/vms/100 VM.Config.Network: for its option 'net0'",
            "/storage/local-zfs Datastore.AllocateSpace: to create its disks",
            "/sdn/zones/localnetwork/vmbr0/7 SDN.Use: to connect its 'net0'",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_map_of_bridges_applies_to_each_network_device() {
        let text =
            "net0: virtio=x,bridge=a,tag=7\nnet1: virtio=x,bridge=b\nnet2: virtio=x,bridge=c\n";
        let guest = Guest::parse(Kind::Qemu, 100, text);
        #[rustfmt::skip] // One row a line.
        let table = [
            ("a:x,b:y", "x/7 y c"),
            ("a:x,z", "x/7 z z"),
            ("1", "a/7 b c"),
            ("z", "z/7 z z"),
            // It is not known which one.
            ("x,y", "vmbr0"),
        ];
        for (bridges, expected) in table {
            let purpose = Purpose {
                guest: Some(&guest),
                bridge_map: map(bridges),
                ..purpose()
            };
            let prefix = bridge_path("");
            let needed = for_bridges(&purpose);
            let paths = needed.iter().map(|each| each.path.replace(&prefix, ""));
            let paths: Vec<String> = paths.collect();
            assert_eq!(paths.join(" "), expected, "{bridges}");
        }
    }

    #[test]
    fn clear_text_and_a_network_of_the_call_need_sys_modify() {
        let of = |migration_type, network: Option<&str>, configured| {
            let purpose = Purpose {
                migration_type,
                network: network.map(str::to_owned),
                configured,
                ..purpose()
            };
            let needed = needed(&purpose);
            needed
                .iter()
                .any(|each| (each.path.as_str(), each.privilege) == ("/", "Sys.Modify"))
        };
        assert!(!of(MigrationType::Secure, None, false));
        assert!(of(MigrationType::Secure, Some("10.0.0.0/24"), false));
        assert!(!of(MigrationType::Secure, Some("dc2"), true));
        assert!(of(MigrationType::Insecure, None, false));
        assert!(!of(MigrationType::Insecure, None, true));
    }
}
