//! The privileges of the API token, and how Proxmox VE looks them up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};
use thiserror::Error;

/// Paths that `GET /access/permissions` always lists if the token has privileges there.
const TOP_LEVEL: [&str; 8] = [
    "/",
    "/access",
    "/access/groups",
    "/nodes",
    "/pool",
    "/sdn",
    "/storage",
    "/vms",
];

/// What a migration to this node needs, with the permission to use clear text (`Sys.Modify`), and
/// what `GET /cluster/status` (`Sys.Audit`) and the queries of a configuration and of a storage
/// need (`VM.Audit`, `Datastore.Audit`).
const OF_A_MIGRATION: [(&str, &[&str]); 4] = [
    ("/", &["Sys.Audit", "Sys.Incoming", "Sys.Modify"]),
    (
        "/vms",
        &[
            "VM.Allocate",
            "VM.Audit",
            "VM.Config.CDROM",
            "VM.Config.CPU",
            "VM.Config.Cloudinit",
            "VM.Config.Disk",
            "VM.Config.HWType",
            "VM.Config.Memory",
            "VM.Config.Network",
            "VM.Config.Options",
            "VM.PowerMgmt",
        ],
    ),
    ("/storage", &["Datastore.AllocateSpace", "Datastore.Audit"]),
    ("/sdn/zones/localnetwork", &["SDN.Use"]),
];

/// Privileges, each with its propagate flag: whether it applies below the path too.
type Privileges = BTreeMap<String, bool>;

#[derive(Debug, Error)]
pub(crate) enum PermissionsError {
    #[error("cannot read the permissions in {path}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("the permissions in {path} are not valid: {reason}")]
    Malformed { path: String, reason: String },
}

/// The privileges of the token, by path.
pub(crate) struct Permissions(BTreeMap<String, Privileges>);

impl Permissions {
    /// The default.
    pub(crate) fn of_a_migration() -> Self {
        let paths = OF_A_MIGRATION.iter().map(|(path, privileges)| {
            let privileges = privileges.iter().map(|name| ((*name).to_owned(), true));
            ((*path).to_owned(), privileges.collect())
        });
        Self(paths.collect())
    }

    /// Reads a JSON object of the shape of `GET /access/permissions`. An empty object for a path
    /// removes what the path would inherit.
    pub(crate) fn load(path: &Path) -> Result<Self, PermissionsError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| PermissionsError::Read {
            path: shown.clone(),
            source,
        })?;
        Self::parse(&text).map_err(|reason| PermissionsError::Malformed {
            path: shown,
            reason,
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let object: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        let paths = object.into_iter().map(|(path, privileges)| {
            if !path.starts_with('/') || (path.len() > 1 && path.ends_with('/')) {
                return Err(format!("'{path}' is not a path like '/vms/100'"));
            }
            let Value::Object(privileges) = privileges else {
                return Err(format!("the value of '{path}' is not an object"));
            };
            let privileges = privileges.into_iter().map(|(name, flag)| {
                let propagate = match (flag.as_bool(), flag.as_u64()) {
                    (Some(flag), _) => flag,
                    (_, Some(flag @ 0..=1)) => flag == 1,
                    _ => return Err(format!("'{name}' at '{path}' is {flag}, expected 0 or 1")),
                };
                Ok((name, propagate))
            });
            Ok((path.clone(), privileges.collect::<Result<_, String>>()?))
        });
        Ok(Self(paths.collect::<Result<_, String>>()?))
    }

    /// The same without one privilege at one path.
    pub(crate) fn without(mut self, path: &str, privilege: &str) -> Self {
        let mut privileges = self.at(path);
        privileges.remove(privilege);
        self.0.insert(path.to_owned(), privileges);
        self
    }

    /// The privileges at a path: those listed for it, otherwise those that its nearest parent
    /// propagates. They replace what that parent inherits. A parent without privileges propagates
    /// nothing and ends the search, as the role `NoAccess` does.
    pub(crate) fn at(&self, path: &str) -> Privileges {
        if let Some(privileges) = self.0.get(path) {
            return privileges.clone();
        }
        let mut below = path;
        while let Some((parent, _)) = below.rsplit_once('/').filter(|_| below != "/") {
            below = if parent.is_empty() { "/" } else { parent };
            let Some(listed) = self.0.get(below) else {
                continue;
            };
            let mut inherited = listed.clone();
            inherited.retain(|_, propagate| *propagate);
            if listed.is_empty() || !inherited.is_empty() {
                return inherited;
            }
        }
        Privileges::new()
    }

    /// Whether the token has a privilege at a path.
    pub(crate) fn has(&self, path: &str, privilege: &str) -> bool {
        self.at(path).contains_key(privilege)
    }

    /// Whether the token has a privilege at a path, or at one of the listed paths below it.
    pub(crate) fn has_there_or_below(&self, path: &str, privilege: &str) -> bool {
        let below = |listed: &&String| Path::new(listed).starts_with(path);
        self.has(path, privilege)
            || (self.0.keys().filter(below)).any(|listed| self.has(listed, privilege))
    }

    /// All paths with privileges, in the shape of `GET /access/permissions`.
    pub(crate) fn listing(&self) -> Value {
        let listed = self.0.keys().map(String::as_str);
        let paths: BTreeSet<&str> = listed.chain(TOP_LEVEL).collect();
        let entries = paths.into_iter().filter_map(|path| {
            let privileges = self.at(path);
            (!privileges.is_empty()).then(|| (path.to_owned(), flags(&privileges)))
        });
        Value::Object(entries.collect())
    }

    /// The privileges at one path, in the shape of `GET /access/permissions?path=…`.
    pub(crate) fn listing_of(&self, path: &str) -> Value {
        Value::Object(Map::from_iter([(path.to_owned(), flags(&self.at(path)))]))
    }
}

fn flags(privileges: &Privileges) -> Value {
    let flags = privileges
        .iter()
        .map(|(name, propagate)| (name.clone(), Value::from(u8::from(*propagate))));
    Value::Object(flags.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::Permissions;
    use serde_json::json;

    #[test]
    fn a_path_inherits_what_its_nearest_listed_parent_propagates() {
        let text = r#"{
            "/": {"Sys.Incoming": 1, "Sys.Modify": 0},
            "/vms": {"VM.Allocate": true, "VM.Audit": false},
            "/vms/101": {},
            "/storage": {"Datastore.Audit": 0}
        }"#;
        let permissions = Permissions::parse(text).unwrap();
        for (path, privilege, expected) in [
            ("/", "Sys.Incoming", true),
            ("/", "Sys.Modify", true),
            ("/", "VM.Allocate", false),
            ("/nodes/target", "Sys.Incoming", true),
            ("/nodes/target", "Sys.Modify", false),
            ("/vms", "VM.Audit", true),
            ("/vms", "Sys.Incoming", false),
            ("/vms/100", "VM.Allocate", true),
            ("/vms/100", "VM.Audit", false),
            ("/vms/101", "VM.Allocate", false),
            ("/vms/101", "Sys.Incoming", false),
            ("/vms/101/x", "VM.Allocate", false),
            ("/vmsx", "VM.Allocate", false),
            ("/storage", "Datastore.Audit", true),
            ("/storage/local", "Datastore.Audit", false),
            ("/storage/local", "Sys.Incoming", true),
        ] {
            assert_eq!(
                permissions.has(path, privilege),
                expected,
                "{privilege} at {path}"
            );
        }
        assert_eq!(
            permissions.listing(),
            json!({
                "/": {"Sys.Incoming": 1, "Sys.Modify": 0},
                "/access": {"Sys.Incoming": 1},
                "/access/groups": {"Sys.Incoming": 1},
                "/nodes": {"Sys.Incoming": 1},
                "/pool": {"Sys.Incoming": 1},
                "/sdn": {"Sys.Incoming": 1},
                "/storage": {"Datastore.Audit": 0},
                "/vms": {"VM.Allocate": 1, "VM.Audit": 0},
            })
        );
    }

    #[test]
    fn one_privilege_can_be_removed() {
        let permissions = Permissions::of_a_migration().without("/", "Sys.Modify");
        assert!(!permissions.has("/", "Sys.Modify"));
        assert!(permissions.has("/", "Sys.Incoming"));
        assert!(permissions.has("/vms/100", "VM.Allocate"));
        assert!(permissions.has("/sdn/zones/localnetwork/vmbr0", "SDN.Use"));
    }

    #[test]
    fn a_privilege_below_a_path_is_found() {
        let text = r#"{"/a/vmbr0": {}, "/a/vmbr0/7": {"SDN.Use": 1}, "/a/vmbr1/7": {}}"#;
        let permissions = Permissions::parse(text).unwrap();
        assert!(!permissions.has("/a/vmbr0", "SDN.Use"));
        assert!(permissions.has_there_or_below("/a/vmbr0", "SDN.Use"));
        assert!(!permissions.has_there_or_below("/a/vmbr", "SDN.Use"));
        assert!(!permissions.has_there_or_below("/a/vmbr1", "SDN.Use"));
    }

    #[test]
    fn invalid_permissions_are_rejected_with_the_value() {
        for (text, reason) in [
            ("[]", "invalid type"),
            (r#"{"vms": {}}"#, "'vms' is not a path"),
            (r#"{"/vms/": {}}"#, "'/vms/' is not a path"),
            (r#"{"/vms": ["VM.Audit"]}"#, "'/vms' is not an object"),
            (
                r#"{"/vms": {"VM.Audit": 2}}"#,
                "'VM.Audit' at '/vms' is 2, expected 0 or 1",
            ),
        ] {
            let error = Permissions::parse(text).err().unwrap();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
