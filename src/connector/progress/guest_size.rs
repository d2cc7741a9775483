//! The size of a guest, as far as the caller's commands to the worker contain it.
//!
//! qemu-server and pve-container do not pass sizes to the tunnel, but every command passes the
//! connector: `disk` has the size of a disk, and `config` has the guest's configuration with its
//! memory. Whatever does not have the expected form is ignored: the sizes are for people only.

use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;

/// The sizes that were found, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::connector) struct GuestSize {
    disks: Disks,
    ram: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Disks {
    #[default]
    NoCommand,
    /// The sum of all commands.
    Sum(u64),
    /// A command had no size.
    Unknown,
}

#[derive(Deserialize)]
struct Command<'a> {
    #[serde(borrow)]
    cmd: Cow<'a, str>,
    #[serde(default)]
    drive: Value,
    #[serde(borrow, default)]
    conf: Option<Cow<'a, str>>,
}

impl GuestSize {
    #[cfg(test)]
    pub(in crate::connector) fn new(disks: Option<u64>, ram: Option<u64>) -> Self {
        Self {
            disks: disks.map_or(Disks::NoCommand, Disks::Sum),
            ram,
        }
    }

    /// All disks of the running guest that are mirrored; none if the size of one is not known.
    pub(in crate::connector) fn disks(&self) -> Option<u64> {
        match self.disks {
            Disks::Sum(sum) => Some(sum),
            Disks::NoCommand | Disks::Unknown => None,
        }
    }

    /// The memory.
    pub(in crate::connector) fn ram(&self) -> Option<u64> {
        self.ram
    }

    /// Takes the sizes from a line for the worker.
    pub(in crate::connector) fn observe(&mut self, line: &[u8]) {
        let Ok(command) = serde_json::from_slice::<Command<'_>>(line) else {
            return;
        };
        match &*command.cmd {
            "disk" => self.add_disk(number(&command.drive["size"])),
            "config" => self.ram = command.conf.as_deref().and_then(memory),
            _ => {}
        }
    }

    fn add_disk(&mut self, size: Option<u64>) {
        self.disks = match (self.disks, size) {
            (Disks::NoCommand, Some(size)) => Disks::Sum(size),
            (Disks::Sum(sum), Some(size)) => Disks::Sum(sum.saturating_add(size)),
            _ => Disks::Unknown,
        };
    }
}

/// A number, or a string with one: Perl has one type for both.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    }
}

/// The guest's memory in bytes, from its configuration: `memory: 2048` or `memory: current=2048`, in
/// MiB. Snapshots follow in sections of their own.
fn memory(configuration: &str) -> Option<u64> {
    let own = configuration
        .lines()
        .take_while(|line| !line.starts_with('['));
    let value = own
        .filter_map(|line| line.strip_prefix("memory:"))
        .last()?
        .trim();
    let current = value.split(',').find_map(|property| {
        match property.split_once('=') {
            // The default key of the property string.
            None => Some(property),
            Some(("current", value)) => Some(value),
            Some(_) => None,
        }
    })?;
    current.trim().parse::<u64>().ok()?.checked_mul(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const GIB: u64 = 1 << 30;

    fn observed(commands: &[Value]) -> (Option<u64>, Option<u64>) {
        let mut size = GuestSize::default();
        for command in commands {
            size.observe(command.to_string().as_bytes());
        }
        (size.disks(), size.ram())
    }

    #[test]
    fn disks_are_added() {
        let disk = |size: Value| {
            json!({
                "cmd": "disk", "format": "raw", "storage": "local",
                "drive": { "interface": "scsi", "index": 0, "size": size },
            })
        };
        let table = [
            (vec![disk(json!(GIB))], Some(GIB)),
            (
                vec![disk(json!(GIB)), disk(json!("1073741824"))],
                Some(2 * GIB),
            ),
            (vec![disk(json!(u64::MAX)), disk(json!(1))], Some(u64::MAX)),
            // The sum of the others would be too small.
            (
                vec![disk(json!(GIB)), disk(Value::Null), disk(json!(GIB))],
                None,
            ),
            (vec![disk(json!("1G"))], None),
            (vec![disk(json!(-1))], None),
            (vec![json!({ "cmd": "disk" })], None),
            (vec![json!({ "cmd": "disk", "drive": "scsi0" })], None),
            (
                vec![json!({ "cmd": "other", "drive": { "size": 1 } })],
                None,
            ),
            (vec![], None),
        ];
        for (commands, expected) in table {
            assert_eq!(observed(&commands), (expected, None), "{commands:?}");
        }
    }

    #[test]
    fn memory_is_taken_from_the_configuration() {
        for (conf, mebibytes) in [
            ("memory: 2048\n", Some(2048)),
            ("cores: 2\nmemory: current=2048\nname: x\n", Some(2048)),
            ("memory: max=4096,current=2048", Some(2048)),
            ("memory: 1\nmemory: 2\n", Some(2)),
            ("memory: 16\n[snapshot]\nmemory: 4096\n", Some(16)),
            ("[snapshot]\nmemory: 4096\n", None),
            ("description: memory: 2\n", None),
            ("memory: max=4096\n", None),
            ("memory: much\n", None),
            ("memory:\n", None),
            ("memory: 18446744073709551615\n", None),
            ("", None),
        ] {
            let command = json!({ "cmd": "config", "conf": conf, "firewall-config": null });
            let expected = mebibytes.map(|count: u64| count << 20);
            assert_eq!(observed(&[command]), (None, expected), "{conf:?}");
        }
    }

    #[test]
    fn lines_of_another_form_are_ignored() {
        let mut size = GuestSize::new(Some(1), Some(2));
        for line in [
            "",
            "{",
            "[]",
            "3",
            r#"{"cmd":["config"]}"#,
            r#"{"conf":"memory: 9"}"#,
        ] {
            size.observe(line.as_bytes());
            assert_eq!(size, GuestSize::new(Some(1), Some(2)), "{line}");
        }
    }
}
