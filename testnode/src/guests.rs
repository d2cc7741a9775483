//! The configurations of guests, in the directory of the node: `<vmid>.conf`.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde_json::{Map, Value};

use crate::worker::Kind;

/// The configuration that `POST mtunnel` creates on a Proxmox VE node.
pub(crate) const LOCKED: &str = "lock: create\n";

/// The configurations in one directory.
pub(crate) struct Guests {
    dir: PathBuf,
}

impl Guests {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The directory of the node.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The IDs of the guests that have a configuration.
    pub(crate) fn configured(&self) -> io::Result<BTreeSet<u32>> {
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let vmid = name.to_str().and_then(|name| name.strip_suffix(".conf"));
            found.extend(vmid.and_then(|vmid| vmid.parse::<u32>().ok()));
        }
        Ok(found)
    }

    /// The text of a configuration, or `None` if the guest has none.
    pub(crate) fn read(&self, vmid: u32) -> io::Result<Option<String>> {
        match std::fs::read_to_string(self.path(vmid)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates a locked configuration. Fails if the guest has a configuration.
    pub(crate) fn create(&self, vmid: u32) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(vmid))?
            .write_all(LOCKED.as_bytes())
    }

    /// Removes a configuration if there is one.
    pub(crate) fn remove(&self, vmid: u32) {
        let _ = std::fs::remove_file(self.path(vmid));
    }

    fn path(&self, vmid: u32) -> PathBuf {
        self.dir.join(format!("{vmid}.conf"))
    }
}

/// The kind of guest that a configuration describes: only a container has a `rootfs`.
pub(crate) fn kind(text: &str) -> Kind {
    match text.lines().any(|line| line.starts_with("rootfs:")) {
        true => Kind::Lxc,
        false => Kind::Qemu,
    }
}

/// The data of `GET …/config`: the options before the first section (such as a snapshot), and the
/// digest of the file.
pub(crate) fn options(text: &str) -> Value {
    let lines = text.lines().take_while(|line| !line.starts_with('['));
    let mut options: Map<String, Value> = lines
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), Value::from(value.trim())))
        .collect();
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    options.insert("digest".to_owned(), Value::from(hex));
    Value::Object(options)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Guests, LOCKED, kind, options};
    use crate::worker::Kind;
    use serde_json::json;

    #[test]
    fn the_options_before_the_first_section_are_returned() {
        let text = "#note: x\nname: web\nscsi0: local:100/a,size=1\n[snap]\nmemory: 1\n";
        let mut found = options(text);
        let digest = found.as_object_mut().unwrap().remove("digest").unwrap();
        assert_eq!(digest.as_str().unwrap().len(), 40);
        assert_eq!(found, json!({"name": "web", "scsi0": "local:100/a,size=1"}));
        assert_eq!(options(LOCKED)["lock"], "create");
        assert_eq!(kind(text), Kind::Qemu);
        assert_eq!(kind("arch: amd64\nrootfs: local:1\n"), Kind::Lxc);
    }

    #[test]
    fn a_configuration_is_created_once() {
        let dir = std::env::temp_dir().join(format!("testnode-guests-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let guests = Guests::new(dir.clone());
        std::fs::write(dir.join("x.conf"), "").unwrap();
        std::fs::write(dir.join("101.log"), "").unwrap();
        assert_eq!(guests.read(100).unwrap(), None);
        guests.create(100).unwrap();
        assert!(guests.create(100).is_err());
        assert_eq!(guests.read(100).unwrap().unwrap(), "lock: create\n");
        assert_eq!(
            guests.configured().unwrap().into_iter().collect::<Vec<_>>(),
            [100]
        );
        guests.remove(100);
        assert!(guests.configured().unwrap().is_empty());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
