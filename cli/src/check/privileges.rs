//! Which privileges a migration needs at the target, and which of them the token lacks.

use super::advice::Advice;
use super::api::{Api, ApiError, encoded};
use super::finding::{Finding, Step};
use super::guest::Guest;
use super::options::{self, Rule};
use super::remote::Remote;
use super::report::Report;
use super::requirement::{Needed, Purpose, merged, needed, new, quoted};
use super::tags;
use crate::shell;
use serde_json::{Map, Value};

/// Reports each privilege that the migration needs and the token lacks, and returns them. None if they
/// cannot be read.
pub(super) fn check(
    api: &Api,
    remote: &Remote,
    purpose: &Purpose<'_>,
    report: &mut Report,
) -> Option<Vec<Needed>> {
    if let Some(guest) = purpose.guest {
        report_unprivileged_options(guest, report);
    }
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
    let mut missing = missing(&needed, &permissions);
    if let Some(tags) = purpose.guest.and_then(|guest| guest.option("tags")) {
        missing.extend(for_tags(api, tags, &permissions, report));
        missing = merged(missing);
    }
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
            .map(|each| (each.privilege, each.purpose.as_str()))
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

/// What the tags of the guest need, which depends on the options of the target's cluster.
fn for_tags(api: &Api, tags: &str, permissions: &Value, report: &mut Report) -> Option<Needed> {
    let modify = new("/", "Sys.Modify", "");
    missing(std::slice::from_ref(&modify), permissions).pop()?;
    let options = match api.get("/cluster/options") {
        Ok(answer) => answer.data,
        Err(error) => {
            report.add(Finding::worse(
                Step::Privileges,
                format!("it is not known whether the token may set the tags of the guest: {error}"),
                "check 'Registered Tags' and 'User Tag Access' at the target: Datacenter, Options",
            ));
            return None;
        }
    };
    let rejected = tags::rejected(tags, &options);
    (!rejected.is_empty()).then(|| Needed {
        purpose: format!("for its tags {}", rejected.join(", ")),
        ..modify
    })
}

/// Reports the options that no privilege of a token permits, and those about which nothing is known.
fn report_unprivileged_options(guest: &Guest, report: &mut Report) {
    let rules = options::rules(guest);
    let with = |wanted: Rule| -> Vec<&str> {
        let found = rules.iter().filter(|(_, rule)| *rule == wanted);
        found.map(|(key, _)| *key).collect()
    };
    let root_only = with(Rule::RootOnly);
    if !root_only.is_empty() {
        let (tool, vmid) = (guest.tool(), guest.vmid());
        report.add(Finding::failed(
            Step::Privileges,
            format!(
                "the target rejects the {} of the guest: only root@pam itself may set that, and a token is not root@pam",
                quoted(&root_only)
            ),
            Advice::with_command(
                "set that at the target after the migration, and remove it here before",
                format!("{tool} set {vmid} --delete {}", root_only.join(",")),
            ),
        ));
    }
    let unknown = with(Rule::Unknown);
    if !unknown.is_empty() {
        report.announce(&format!(
            "It is not known which privileges the target requires for the {} of the guest.",
            quoted(&unknown)
        ));
    }
}

/// Those that are missing in `permissions`: an object from paths to objects from privileges. Each path
/// has what applies to it; the flags, which are about the paths below, have no effect.
pub(super) fn missing(needed: &[Needed], permissions: &Value) -> Vec<Needed> {
    let has = |each: &Needed| {
        let on_path = permissions.get(&each.path);
        let has = |name: &str| on_path.is_some_and(|privileges| privileges.get(name).is_some());
        has(each.privilege) || each.or.is_some_and(has)
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
        Some("mapping") => "MigrateMapping",
        _ => "MigrateIn",
    };
    let privileges = privileges.join(",");
    let user = token.split('!').next().unwrap_or(token);
    let (path, token, user) = (
        shell::quoted(path),
        shell::quoted(token),
        shell::quoted(user),
    );
    format!(
        "pveum role add {role} --privs {privileges} || pveum role modify {role} --append 1 --privs {privileges} && pveum acl modify {path} --tokens {token} --users {user} --roles {role}"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::requirement::tests::purpose;
    use super::*;
    use serde_json::json;

    fn all_of(purpose: &Purpose<'_>) -> Value {
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
    fn one_of_two_privileges_is_enough() {
        let on = [Needed {
            or: Some("VM.Config.Network"),
            ..new("/vms/100", "VM.Config.Cloudinit", "")
        }];
        for (name, expected) in [
            ("VM.Config.Cloudinit", true),
            ("VM.Config.Network", true),
            ("VM.Config.Options", false),
        ] {
            let missing = missing(&on, &json!({ "/vms/100": { name: 1 } }));
            assert_eq!(missing.is_empty(), expected, "{name}");
        }
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
            "pveum role add MigrateIn --privs Sys.Incoming,Sys.Audit || pveum role modify MigrateIn --append 1 --privs Sys.Incoming,Sys.Audit && pveum acl modify / --tokens 'move@pve!t' --users move@pve --roles MigrateIn"
        );
        assert!(command("/vms/100", &["VM.Allocate"], "t").contains("role add MigrateGuest "));
        // Names come from files of the guest, and the command is to be copied.
        let command = command("/mapping/usb/a;b c", &["Mapping.Use"], "o'x@pve!t");
        let end = "pveum acl modify '/mapping/usb/a;b c' --tokens 'o'\\''x@pve!t' --users 'o'\\''x@pve' --roles MigrateMapping";
        assert!(command.ends_with(end), "{command}");
    }
}
