//! What the node has: its version of Proxmox VE, storages and bridges, from the command line.

use std::path::Path;
use std::str::FromStr;

use serde_json::{Map, Value, json};

/// The options of the cluster.
pub(crate) type Options = Map<String, Value>;

/// Reads the options from a file.
pub(crate) fn options(path: &str) -> Result<Options, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

/// What the command line defines.
pub(crate) struct Inventory {
    pub(crate) version: PveVersion,
    pub(crate) options: Options,
    pub(crate) storages: Vec<Storage>,
    pub(crate) bridges: Vec<String>,
}

impl Inventory {
    pub(crate) fn storage(&self, id: &str) -> Option<&Storage> {
        self.storages.iter().find(|storage| storage.id == id)
    }

    pub(crate) fn has_bridge(&self, name: &str) -> bool {
        self.bridges.iter().any(|bridge| bridge == name)
    }
}

/// The version of Proxmox VE that the node reports, such as `9.1.4`.
#[derive(Clone)]
pub(crate) struct PveVersion(String);

impl PveVersion {
    /// The data of `GET /version`.
    pub(crate) fn report(&self) -> Value {
        let release: Vec<&str> = self.0.splitn(3, '.').take(2).collect();
        json!({
            "version": self.0,
            "release": release.join("."),
            "repoid": "5ac30304265fbd8e",
        })
    }
}

impl FromStr for PveVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('.').collect();
        let digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if parts.len() != 3 || !parts.iter().all(digits) {
            return Err("expected a version like 9.1.4".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

/// A storage of the node: `ID[,avail=BYTES][,content=TYPE][,inactive]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Storage {
    pub(crate) id: String,
    /// Free space in bytes. `None`: that of the file system with the directory of the node.
    available: Option<u64>,
    /// The types of its content.
    content: String,
    active: bool,
}

impl Storage {
    /// The data of `GET …/storage/ID/status`, for a storage in the directory `dir`.
    pub(crate) fn status(&self, dir: &Path) -> std::io::Result<Value> {
        let (total, available) = match self.available {
            Some(available) => (available, available),
            None => {
                let found = nix::sys::statvfs::statvfs(dir)?;
                let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
                (bytes(found.blocks()), bytes(found.blocks_available()))
            }
        };
        Ok(json!({
            "type": "dir",
            "content": self.content,
            "enabled": 1,
            "active": u8::from(self.active),
            "shared": 0,
            "total": total,
            "avail": available,
            "used": total.saturating_sub(available),
        }))
    }
}

impl FromStr for Storage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut properties = text.split(',');
        let mut storage = Self {
            id: name(properties.next().unwrap_or_default())?,
            available: None,
            content: "images,rootdir".to_owned(),
            active: true,
        };
        for property in properties {
            match property.split_once('=') {
                Some(("avail", bytes)) => {
                    let bytes = bytes.parse();
                    let invalid = |_| format!("'{property}' is not a number of bytes");
                    storage.available = Some(bytes.map_err(invalid)?);
                }
                Some(("content", kind)) => storage.content = kind.to_owned(),
                None if property == "inactive" => storage.active = false,
                _ => {
                    return Err(format!(
                        "unknown property '{property}', expected avail=BYTES, content=TYPE or inactive"
                    ));
                }
            }
        }
        Ok(storage)
    }
}

/// Checks the name of a storage or of a bridge.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let starts = text.starts_with(|first: char| first.is_ascii_alphabetic());
    if !starts || !text.bytes().all(valid) {
        return Err(format!(
            "'{text}' is not a name of letters, digits, '.', '_' and '-'"
        ));
    }
    Ok(text.to_owned())
}

/// The data of `GET …/network/BRIDGE`.
pub(crate) fn bridge() -> Value {
    json!({
        "type": "bridge",
        "method": "manual",
        "method6": "manual",
        "families": ["inet"],
        "autostart": 1,
        "active": 1,
        "exists": 1,
        "bridge_ports": "",
        "bridge_stp": "off",
        "bridge_fd": "0",
        "priority": 3,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{PveVersion, Storage, name};
    use serde_json::json;

    #[test]
    fn the_release_is_the_start_of_the_version() {
        let report = "8.4.19".parse::<PveVersion>().unwrap().report();
        assert_eq!(report["version"], "8.4.19");
        assert_eq!(report["release"], "8.4");
        for text in ["", "9", "9.1", "9.1.", "9.1.4.2", "9.1.4-1", "9.x.1"] {
            assert!(text.parse::<PveVersion>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn storages_and_bridges_are_parsed() {
        let storage: Storage = "local-zfs,avail=1000".parse().unwrap();
        assert_eq!(
            (storage.id.as_str(), storage.available),
            ("local-zfs", Some(1000))
        );
        let dir = std::path::Path::new("/");
        assert_eq!(storage.status(dir).unwrap()["avail"], 1000);
        let status = "local".parse::<Storage>().unwrap().status(dir).unwrap();
        let iso: Storage = "iso,content=iso,inactive".parse().unwrap();
        let iso = iso.status(dir).unwrap();
        assert_eq!(
            (&iso["content"], &iso["active"]),
            (&json!("iso"), &json!(0))
        );
        let number = |key: &str| status[key].as_u64().unwrap();
        assert!(number("total") > 0);
        assert_eq!(number("used") + number("avail"), number("total"));
        for (text, reason) in [
            ("", "'' is not a name"),
            ("a/b", "'a/b' is not a name"),
            ("local,size=1", "unknown property 'size=1'"),
            ("local,avail=1G", "'avail=1G' is not a number of bytes"),
        ] {
            let error = text.parse::<Storage>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert_eq!(name("vmbr0.5").unwrap(), "vmbr0.5");
        assert!(name("0vm br").is_err());
    }
}
