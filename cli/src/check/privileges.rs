//! Which privileges a migration needs at the target, and which of them the token lacks.

use super::advice::Advice;
use super::api::{Api, ApiError, encoded};
use super::remote::Remote;
use super::report::{Finding, Report, Step};
use pve_tunnel::plan;
use pve_tunnel::plane::MigrationType;
use serde_json::{Map, Value};

/// What a migration will do at the target, as far as it needs privileges.
#[derive(Debug, Clone)]
pub(super) struct Purpose {
    /// None if it is not known: the token needs the privileges for every VMID.
    pub(super) vmid: Option<u32>,
    pub(super) storages: Vec<String>,
    pub(super) bridges: Vec<String>,
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
    pub(super) purpose: &'static str,
}

/// Reports each privilege that the migration needs and the token lacks, and returns them. None if they
/// cannot be read.
pub(super) fn check(
    api: &Api,
    remote: &Remote,
    purpose: &Purpose,
    report: &mut Report,
) -> Option<Vec<Needed>> {
    let needed = needed(purpose);
    let permissions = match permissions(api, &needed) {
        Ok(permissions) => permissions,
        Err(error) => {
            report.add(Finding::worse(
                Step::Privileges,
                format!("the privileges of the token cannot be read: {error}"),
                "check them at the target: 'pveum user token permissions USER NAME'",
            ));
            return None;
        }
    };
    let missing = missing(&needed, &permissions);
    let id = remote.token.as_ref().map_or("", |token| token.id());
    if missing.is_empty() {
        let text = format!(
            "{id} has all {} privileges that the migration needs",
            needed.len()
        );
        report.add(Finding::ok(Step::Privileges, text));
    }
    for (path, lacking) in by_path(&missing) {
        let (names, purposes): (Vec<&str>, Vec<&str>) = lacking
            .iter()
            .map(|each| (each.privilege, each.purpose))
            .unzip();
        report.add(Finding::failed(
            Step::Privileges,
            format!(
                "{id} lacks {} on {path}: {}",
                names.join(", "),
                purposes.join(", ")
            ),
            Advice::with_command("on the target", command(path, &names, id)),
        ));
    }
    if purpose.storages.is_empty() || purpose.bridges.is_empty() {
        report.announce(
            "Storages and bridges are checked if they are given with --target-storage and --target-bridge.",
        );
    }
    Some(missing)
}

/// What applies to each path. The list of all paths would not show what the token has on a path that
/// no entry of the access control list names.
fn permissions(api: &Api, needed: &[Needed]) -> Result<Value, ApiError> {
    let mut permissions = Map::new();
    for (path, _) in by_path(needed) {
        let answer = api.get(&format!("/access/permissions?path={}", encoded(path)))?;
        if let Value::Object(own) = answer.data {
            permissions.extend(own);
        }
    }
    Ok(permissions.into())
}

/// Everything that the migration needs. The target checks each of them itself, some only when the
/// migration is half done.
pub(super) fn needed(purpose: &Purpose) -> Vec<Needed> {
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
    ];
    let of_guest = [
        ("VM.Allocate", "to create the guest"),
        ("VM.Config.CPU", "to set its processors"),
        ("VM.Config.Memory", "to set its memory"),
        ("VM.Config.Disk", "to set its disks"),
        ("VM.Config.HWType", "to set its devices"),
        ("VM.Config.Network", "to set its network interfaces"),
        ("VM.Config.Options", "to set its options"),
    ];
    needed.extend(
        of_guest
            .into_iter()
            .map(|(privilege, what)| new(&guest, privilege, what)),
    );
    let storages = purpose.storages.iter();
    needed.extend(storages.map(|storage| {
        let path = format!("/storage/{storage}");
        new(&path, "Datastore.AllocateSpace", "to create its disks")
    }));
    let bridges = purpose.bridges.iter();
    needed.extend(bridges.map(|bridge| {
        let path = bridge_path(bridge);
        new(&path, "SDN.Use", "to connect it to the bridge")
    }));
    let network = purpose.network.as_deref();
    if !plan::privileges(purpose.migration_type, network, purpose.configured).is_empty() {
        let what = match purpose.migration_type {
            MigrationType::Insecure => "for clear text",
            MigrationType::Secure => "for a network that is not configured there",
        };
        needed.push(new("/", "Sys.Modify", what));
    }
    needed
}

/// The path of a bridge in the access control list.
pub(super) fn bridge_path(bridge: &str) -> String {
    format!("/sdn/zones/localnetwork/{bridge}")
}

fn new(path: &str, privilege: &'static str, purpose: &'static str) -> Needed {
    Needed {
        path: path.to_owned(),
        privilege,
        purpose,
    }
}

/// Those that are missing in `permissions`: an object from paths to objects from privileges. Each path
/// has what applies to it; the flags, which are about the paths below, have no effect.
pub(super) fn missing(needed: &[Needed], permissions: &Value) -> Vec<Needed> {
    let has = |each: &Needed| {
        let on_path = permissions.get(&each.path);
        on_path.is_some_and(|privileges| privileges.get(each.privilege).is_some())
    };
    needed.iter().filter(|each| !has(each)).cloned().collect()
}

/// The privileges of each path, in the order of the paths' first occurrence.
pub(super) fn by_path(needed: &[Needed]) -> Vec<(&str, Vec<&Needed>)> {
    let mut groups: Vec<(&str, Vec<&Needed>)> = Vec::new();
    for each in needed {
        match groups.iter_mut().find(|(path, _)| *path == each.path) {
            Some((_, group)) => group.push(each),
            None => groups.push((&each.path, vec![each])),
        }
    }
    groups
}

/// The commands that give a token these privileges on a path, and its user, too: a token with privilege
/// separation has only what both have. The role may exist, by the manual or by the advice for another path.
pub(super) fn command(path: &str, privileges: &[&str], token: &str) -> String {
    let role = match path.split('/').nth(1) {
        Some("vms") => "MigrateGuest",
        Some("storage") => "MigrateStorage",
        Some("sdn") => "MigrateBridge",
        _ => "MigrateIn",
    };
    let privileges = privileges.join(",");
    let user = token.split('!').next().unwrap_or(token);
    format!(
        "pveum role add {role} --privs {privileges} || pveum role modify {role} --append 1 --privs {privileges} && pveum acl modify {path} --tokens '{token}' --users '{user}' --roles {role}"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn purpose() -> Purpose {
        Purpose {
            vmid: Some(100),
            storages: vec!["local-zfs".to_owned()],
            bridges: vec!["vmbr0".to_owned()],
            migration_type: MigrationType::Secure,
            network: None,
            configured: false,
        }
    }

    fn names(missing: &[Needed]) -> Vec<String> {
        missing
            .iter()
            .map(|each| format!("{} {}", each.path, each.privilege))
            .collect()
    }

    fn all_of(purpose: &Purpose) -> Value {
        let mut permissions = json!({});
        for each in needed(purpose) {
            permissions[each.path][each.privilege] = 1.into();
        }
        permissions
    }

    #[test]
    fn each_missing_privilege_is_found() {
        let purpose = purpose();
        let complete = all_of(&purpose);
        assert!(missing(&needed(&purpose), &complete).is_empty());
        for each in needed(&purpose) {
            let mut permissions = complete.clone();
            permissions[&each.path]
                .as_object_mut()
                .unwrap()
                .remove(each.privilege);
            assert_eq!(missing(&needed(&purpose), &permissions), [each]);
        }
    }

    #[test]
    fn a_privilege_counts_on_its_own_path_whatever_its_flag_is() {
        let on = [new("/vms/100", "VM.Allocate", "")];
        #[rustfmt::skip] // One row a line.
        let table = [
            (json!({ "/vms/100": { "VM.Allocate": 1 } }), true),
            (json!({ "/vms/100": { "VM.Allocate": 0 } }), true),
            (json!({ "/vms/100": {} }), false),
            (json!({ "/vms/10": { "VM.Allocate": 1 }, "/": { "VM.Allocate": 1 } }), false),
            (json!({}), false),
            (json!([]), false),
        ];
        for (permissions, expected) in table {
            let missing = missing(&on, &permissions);
            assert_eq!(missing.is_empty(), expected, "{permissions}");
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
            names(&needed).contains(&"/ Sys.Modify".to_owned())
        };
        assert!(!of(MigrationType::Secure, None, false));
        assert!(of(MigrationType::Secure, Some("10.0.0.0/24"), false));
        assert!(!of(MigrationType::Secure, Some("dc2"), true));
        assert!(of(MigrationType::Insecure, None, false));
        assert!(!of(MigrationType::Insecure, None, true));
    }

    #[test]
    fn a_command_names_path_token_and_privileges() {
        let missing = [
            new("/", "Sys.Incoming", ""),
            new("/vms/100", "VM.Allocate", ""),
            new("/", "Sys.Audit", ""),
        ];
        let groups = by_path(&missing);
        let paths: Vec<&str> = groups.iter().map(|(path, _)| *path).collect();
        assert_eq!(paths, ["/", "/vms/100"]);
        assert_eq!(groups[0].1.len(), 2);
        assert_eq!(
            command("/", &["Sys.Incoming", "Sys.Audit"], "move@pve!t"),
            "pveum role add MigrateIn --privs Sys.Incoming,Sys.Audit || pveum role modify MigrateIn --append 1 --privs Sys.Incoming,Sys.Audit && pveum acl modify / --tokens 'move@pve!t' --users 'move@pve' --roles MigrateIn"
        );
        assert!(command("/vms/100", &["VM.Allocate"], "t").contains("role add MigrateGuest "));
    }
}
