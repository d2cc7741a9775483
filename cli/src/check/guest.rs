//! The guest that shall move: how long its RAM and its disks take.

use super::finding::{Finding, Step};
use super::measurement::Direction;
use super::report::Report;
use crate::opened_file;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

/// Memory of a guest whose configuration does not name it, in MiB: the defaults of Proxmox VE.
const DEFAULT_MEMORY: u64 = 512;

/// Largest configuration that is read, in bytes.
const MAX_CONFIGURATION: u64 = 1 << 20;

const MIB: u64 = 1 << 20;

/// A guest of this node.
#[derive(Debug, PartialEq)]
pub(super) struct Guest {
    vmid: u32,
    kind: Kind,
    /// All options, in the order of the file.
    options: Vec<(String, String)>,
    /// Those that the guest will have after its next start.
    pending: Vec<(String, String)>,
    /// Names.
    snapshots: Vec<String>,
    /// In bytes.
    memory: u64,
    disks: Vec<Disk>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Qemu,
    Lxc,
}

#[derive(Debug, PartialEq)]
struct Disk {
    /// Its key in the configuration, as `scsi0`.
    name: String,
    /// None for a volume that is not one of a storage.
    storage: Option<String>,
    /// In bytes; none if the configuration does not name it.
    size: Option<u64>,
}

impl Guest {
    /// Reads the configuration from `directory`, `/etc/pve/local` on a node.
    pub(super) fn read(directory: &Path, vmid: u32) -> Result<Self, String> {
        for (kind, folder) in [(Kind::Qemu, "qemu-server"), (Kind::Lxc, "lxc")] {
            let path = directory.join(folder).join(format!("{vmid}.conf"));
            return match opened_file::read(&path, MAX_CONFIGURATION) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => Err(format!("cannot read {}: {error}", path.display())),
                Ok(text) if text.len() as u64 > MAX_CONFIGURATION => {
                    Err(format!("{} is too large", path.display()))
                }
                // What is not UTF-8 can only be in texts for people, such as the description.
                Ok(text) => Ok(Self::parse(kind, vmid, &String::from_utf8_lossy(&text))),
            };
        }
        Err(format!("this node has no guest {vmid}"))
    }

    pub(super) fn vmid(&self) -> u32 {
        self.vmid
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The name of its kind in the paths of the API.
    pub(super) fn api_name(&self) -> &'static str {
        match self.kind {
            Kind::Qemu => "qemu",
            Kind::Lxc => "lxc",
        }
    }

    /// Names and values of its options.
    pub(super) fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        let options = self.options.iter();
        options.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The same, as it will have them after its next start. Proxmox VE also reads the volumes of these if it moves a VM.
    pub(super) fn pending(&self) -> impl Iterator<Item = (&str, &str)> {
        let options = self.pending.iter();
        options.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The names of its snapshots.
    pub(super) fn snapshots(&self) -> impl Iterator<Item = &str> {
        self.snapshots.iter().map(String::as_str)
    }

    /// Whether an option is a disk, a volume or a drive.
    pub(super) fn is_drive(&self, key: &str) -> bool {
        is_disk(self.kind, key)
    }

    /// The value of an option.
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.options()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// The command that manages such guests.
    pub(super) fn tool(&self) -> &'static str {
        match self.kind {
            Kind::Qemu => "qm",
            Kind::Lxc => "pct",
        }
    }

    /// The size of the disks on these storages, as far as the configuration contains it, and whether it contains
    /// that of each.
    pub(super) fn disk_bytes(&self, is_wanted: impl Fn(&str) -> bool) -> (u64, bool) {
        let disks = self.disks.iter();
        let wanted = disks.filter(|disk| disk.storage.as_deref().is_some_and(&is_wanted));
        wanted.fold((0, true), |(total, all), disk| match disk.size {
            Some(size) => (total.saturating_add(size), all),
            None => (total, false),
        })
    }

    /// The storages of this node that its drives use.
    pub(super) fn storages(&self) -> Vec<&str> {
        let drives = self.options().filter(|(key, _)| self.is_drive(key));
        drives.filter_map(|(_, value)| storage(value)).collect()
    }

    /// The network devices that are connected to a bridge of this node: their options, their values and the bridges.
    pub(super) fn bridges(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let devices = self
            .options()
            .filter(|(key, _)| matches!(split_index(key), ("net", Some(_))));
        devices.filter_map(|(key, value)| Some((key, value, property(value, "bridge")?)))
    }

    /// The first part of the file, and the changes that are not applied yet. The others are snapshots.
    pub(super) fn parse(kind: Kind, vmid: u32, text: &str) -> Self {
        let mut guest = Self {
            vmid,
            kind,
            options: Vec::new(),
            pending: pending(text),
            snapshots: text.lines().filter_map(snapshot).collect(),
            memory: DEFAULT_MEMORY * MIB,
            disks: Vec::new(),
        };
        for line in text.lines() {
            if line.starts_with('[') {
                break;
            }
            let (key, value) = match (line.strip_prefix('#'), line.split_once(':')) {
                (Some(comment), _) => ("description", comment),
                (None, Some((key, value))) => (key, value.trim()),
                (None, None) => continue,
            };
            guest.options.push((key.to_owned(), value.to_owned()));
            if key == "memory" {
                let current = value.strip_prefix("current=").unwrap_or(value);
                let number = current
                    .split(',')
                    .next()
                    .and_then(|text| text.parse::<u64>().ok());
                guest.memory = number.unwrap_or(DEFAULT_MEMORY).saturating_mul(MIB);
            } else if is_disk(kind, key) && !is_removable(value) {
                guest.disks.push(Disk {
                    name: key.to_owned(),
                    storage: storage(value).map(str::to_owned),
                    size: property(value, "size").and_then(bytes),
                });
            }
        }
        guest
    }

    /// Reports how long RAM and disks take at the measured rate of the chosen plane.
    pub(super) fn estimate(&self, report: &mut Report) {
        // With lanes, a migration uses as many as help.
        let measured = report
            .measurements
            .iter()
            .filter(|each| {
                Some(&each.plane) == report.plane.as_ref() && each.direction == Direction::Sent
            })
            .max_by(|one, other| one.rate.total_cmp(&other.rate));
        let Some(measurement) = measured else {
            return report
                .announce("The time for the guest is not known, because nothing was measured.");
        };
        let (rate, is_early) = (measurement.rate * 1e6, measurement.is_early());
        let about = match is_early {
            true => "at most",
            false => "about",
        };
        let line = |name: &str, size| format!("{name}: {}", size_and_time(size, rate, about));
        let mut total: u64 = 0;
        if self.kind == Kind::Qemu {
            total = self.memory;
            report.add(Finding::ok(Step::Guest, line("RAM", self.memory)));
        }
        for disk in &self.disks {
            match disk.size {
                Some(size) => {
                    total = total.saturating_add(size);
                    report.add(Finding::ok(Step::Guest, line(&disk.name, size)));
                }
                None => report.add(Finding::ok(
                    Step::Guest,
                    format!("{}: its size is not in the configuration", disk.name),
                )),
            }
        }
        let (_, are_all_known) = self.disk_bytes(|_| true);
        let (least, about) = match (are_all_known, is_early) {
            (true, _) => ("", about),
            (false, false) => ("at least ", "at least"),
            (false, true) => ("at least ", "about"),
        };
        let text = format!("together: {least}{}", size_and_time(total, rate, about));
        report.add(Finding::ok(Step::Guest, text));
        report.announce(
            "This assumes that the disks of both nodes are as fast as the network, that everything is sent once, and that zeros are not skipped. A running guest changes RAM and disks meanwhile, which are sent again.",
        );
    }
}

/// Such as `2.0 GiB in about 5 s`.
fn size_and_time(size: u64, rate: f64, about: &str) -> String {
    let gib = size as f64 / (1_u64 << 30) as f64;
    let time = Duration::from_secs_f64(size as f64 / rate.max(1.0));
    format!("{gib:.1} GiB in {about} {}", shown(time))
}

/// A time as people say it, as in `2 h 05 min`.
fn shown(time: Duration) -> String {
    let seconds = time.as_secs_f64().ceil() as u64;
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min {:02} s", seconds % 60),
        (hours, minutes) => format!("{hours} h {minutes:02} min"),
    }
}

/// Name and number of an option such as `scsi0`.
pub(super) fn split_index(key: &str) -> (&str, Option<u32>) {
    let name = key.trim_end_matches(|c: char| c.is_ascii_digit());
    (name, key[name.len()..].parse().ok())
}

fn is_disk(kind: Kind, key: &str) -> bool {
    let bus = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let buses: &[&str] = match kind {
        Kind::Qemu => &[
            "ide", "sata", "scsi", "virtio", "efidisk", "tpmstate", "unused",
        ],
        Kind::Lxc => &["mp", "unused"],
    };
    (kind == Kind::Lxc && key == "rootfs") || (bus.len() < key.len() && buses.contains(&bus))
}

/// The snapshot whose part of the file begins with this line. Other parts have changes that are not applied
/// yet, and what Proxmox VE stores for itself.
fn snapshot(line: &str) -> Option<String> {
    let name = line.trim_end().strip_prefix('[')?.strip_suffix(']')?;
    let is_other = name.eq_ignore_ascii_case("pending") || name.starts_with("special:");
    (!is_other).then(|| name.to_owned())
}

/// The options of the part with changes that are not applied yet.
fn pending(text: &str) -> Vec<(String, String)> {
    let is_heading = |line: &str| line.trim_end().eq_ignore_ascii_case("[pending]");
    let part = text.lines().skip_while(|line| !is_heading(line)).skip(1);
    part.take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

/// A CD or an empty drive, which does not move.
fn is_removable(value: &str) -> bool {
    property(value, "media") == Some("cdrom") || value.starts_with("none")
}

/// The volume of a drive.
pub(super) fn volume(value: &str) -> &str {
    property(value, "volume")
        .or_else(|| property(value, "file"))
        .or_else(|| value.split(',').next())
        .unwrap_or_default()
}

/// The storage of a drive. A CD drive without a CD and a file of this node have none.
pub(super) fn storage(value: &str) -> Option<&str> {
    let (storage, _) = volume(value).split_once(':')?;
    (!storage.starts_with('/')).then_some(storage)
}

/// The value of a property in a list such as `a=1,b=2`.
pub(super) fn property<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value
        .split(',')
        .filter_map(|part| part.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// A size as Proxmox VE writes it: a number, and K, M, G or T.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    let number: f64 = digits.parse().ok()?;
    let size = number * (1_u64 << shift) as f64;
    (0.0..1e18).contains(&size).then_some(size as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ram_and_disks_come_from_the_first_part_of_the_configuration() {
        let text = "agent: 1\nboot: order=scsi0\nide2: local:iso/x.iso,media=cdrom,size=4M\nmemory: 4096\nscsi0: local-zfs:vm-100-disk-0,iothread=1,size=32G\nscsihw: virtio-scsi-single\nvirtio1: local-zfs:vm-100-disk-1,size=1536M\nefidisk0: local-zfs:vm-100-disk-2,size=528K\nsata0: none,media=cdrom\nscsi1: x:y\n\n[snap]\nmemory: 1\nscsi5: a:b,size=1T\n";
        let guest = Guest::parse(Kind::Qemu, 100, text);
        assert_eq!(guest.memory, 4096 << 20);
        let size = (33 << 30) + (512 << 20) + (528 << 10);
        assert_eq!(guest.disk_bytes(|_| true), (size, false));
        assert_eq!(guest.disk_bytes(|storage| storage == "z"), (0, true));
        let disks: Vec<(&str, Option<u64>)> = guest
            .disks
            .iter()
            .map(|disk| (disk.name.as_str(), disk.size))
            .collect();
        assert_eq!(
            disks,
            [
                ("scsi0", Some(32 << 30)),
                ("virtio1", Some(1536 << 20)),
                ("efidisk0", Some(528 << 10)),
                ("scsi1", None),
            ]
        );
        let guest = Guest::parse(Kind::Qemu, 100, "memory: current=2048\n");
        assert_eq!(guest.memory, 2048 << 20);
        assert_eq!(Guest::parse(Kind::Qemu, 100, "").memory, 512 << 20);
        let text = "rootfs: local:1/x.raw,size=8G\nmp0: a:b,mp=/srv,size=1T\nmp: x\n";
        let container = Guest::parse(Kind::Lxc, 100, text);
        assert_eq!(container.disks.len(), 2);
        assert_eq!(container.api_name(), "lxc");
        assert_eq!(
            container.disk_bytes(|storage| storage == "a"),
            (1 << 40, true)
        );
    }

    #[test]
    fn the_storages_and_bridges_that_a_guest_uses_are_known() {
        let text = "ide0: local:9/vm-9-cloudinit.qcow2,media=cdrom\nide2: none,media=cdrom\nscsi0: file=lvm:vm-9-disk-0\nunused0: old:vm-9-disk-1\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr1,tag=7\nnet1: virtio=x\nnetx: bridge=y\n";
        let guest = Guest::parse(Kind::Qemu, 9, text);
        assert_eq!(guest.storages(), ["local", "lvm", "old"]);
        let bridges: Vec<_> = guest
            .bridges()
            .map(|(key, _, bridge)| (key, bridge))
            .collect();
        assert_eq!(bridges, [("net0", "vmbr1")]);
        let text = "rootfs: volume=zfs:subvol-9-disk-0\nmp0: /srv/a:b,mp=/a\n";
        assert_eq!(Guest::parse(Kind::Lxc, 9, text).storages(), ["zfs"]);
    }

    #[test]
    fn sizes_and_times_are_read_and_shown() {
        #[rustfmt::skip] // One row a line.
        let sizes = [
            ("512", Some(512)), ("4K", Some(4096)), ("1.5G", Some(3 << 29)), ("2T", Some(2 << 40)),
            ("", None), ("x", None), ("1X", None), ("-1G", None),
        ];
        for (text, expected) in sizes {
            assert_eq!(bytes(text), expected, "{text}");
        }
        let times = [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 01 s"),
            (7500, "2 h 05 min"),
        ];
        for (seconds, expected) in times {
            assert_eq!(shown(Duration::from_secs(seconds)), expected);
        }
    }
}
