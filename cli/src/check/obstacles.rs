//! What Proxmox VE does not move to another cluster, as far as the configuration of the guest shows it.

use super::advice::Advice;
use super::finding::{Finding, Step};
use super::guest::{Guest, Kind, property, storage, volume};
use super::report::Report;
use crate::shell::quoted;

/// Reports each reason why the guest would be refused.
pub(super) fn check(guest: &Guest, report: &mut Report) {
    for (text, advice) in obstacles(guest) {
        report.add(Finding::failed(Step::Guest, text, advice));
    }
    for (text, advice) in doubts(guest) {
        report.add(Finding::worse(Step::Guest, text, advice));
    }
}

/// Volumes whose names do not contain their owner. Proxmox VE requests it from the storage.
fn doubts(guest: &Guest) -> Vec<(String, Advice)> {
    let is_volume = |(key, value): &(&str, &str)| {
        guest.is_drive(key) && property(value, "media") != Some("cdrom")
    };
    guest
        .options()
        .filter(is_volume)
        .filter_map(|(key, value)| {
            let (volume, storage) = (volume(value), storage(value)?);
            let text = format!(
                "it is not known whether '{key}' can be moved: the name of {volume} does not contain the guest that owns it"
            );
            let advice = Advice::with_command(
                "Proxmox VE moves it only if this list has it for the guest",
                format!("pvesm list {} --vmid {}", quoted(storage), guest.vmid()),
            );
            owner(volume).is_none().then_some((text, advice))
        })
        .collect()
}

fn obstacles(guest: &Guest) -> Vec<(String, Advice)> {
    let (tool, vmid) = (guest.tool(), guest.vmid());
    let mut found = Vec::new();
    if let Some(lock) = guest.option("lock") {
        let advice = match lock {
            "suspended" => Advice::with_command("resume it", format!("{tool} resume {vmid}")),
            "mounted" => Advice::with_command("unmount it", format!("{tool} unmount {vmid}")),
            "create" | "migrate" => "wait until the task that has locked it ends; 'pve-tunnel leftovers' reports such a lock without a task".into(),
            _ => "wait until the task that has locked it ends".into(),
        };
        found.push((format!("the guest is locked ('{lock}')"), advice));
    }
    for name in guest.snapshots() {
        let advice = Advice::with_command(
            "delete it before the migration",
            format!("{tool} delsnapshot {vmid} {}", quoted(name)),
        );
        found.push((format!("the guest has the snapshot '{name}'"), advice));
    }
    let is_drive = |(key, _): &(&str, &str)| guest.is_drive(key);
    for (key, value) in guest.options().filter(is_drive) {
        found.extend(of_drive(guest, key, value));
    }
    if guest.kind() == Kind::Qemu {
        for (key, value) in guest.pending().filter(is_drive) {
            let advice = Advice::with_command(
                "apply this change by a restart of the guest, or revert it",
                format!("{tool} set {vmid} --revert {key}"),
            );
            let of_change = of_drive(guest, key, value);
            found.extend(of_change.map(|(text, _)| (format!("{text} (pending change)"), advice)));
        }
    }
    found
}

fn of_drive(guest: &Guest, key: &str, value: &str) -> Option<(String, Advice)> {
    let (tool, vmid, volume) = (guest.tool(), guest.vmid(), volume(value));
    if property(value, "media") == Some("cdrom") {
        let advice = Advice::with_command(
            "eject it before the migration",
            format!("{tool} set {vmid} --{key} none,media=cdrom"),
        );
        let has_cd = volume != "none" && !volume.contains("cloudinit");
        return has_cd.then(|| (format!("'{key}' has a CD: {volume}"), advice));
    }
    // A device that is marked as shared is not moved.
    let is_moved = guest.kind() == Kind::Lxc || property(value, "shared") != Some("1");
    if volume.starts_with('/') && is_moved {
        let advice = match guest.kind() {
            Kind::Lxc => "remove it before the migration, and add it at the target afterwards",
            Kind::Qemu => "move its data to a volume of a storage, or remove it from the guest",
        };
        let text = format!("'{key}' is no volume, but {volume} of this node");
        Some((text, advice.into()))
    } else if is_linked_clone(volume) {
        let advice = "make a full clone of the guest, and move that";
        let text = format!("'{key}' is a linked clone: {volume}");
        Some((text, advice.into()))
    } else if owner(volume).is_some_and(|owner| owner != vmid) {
        let advice = "move the disk to this guest, or remove it from the guest's configuration";
        let text = format!("'{key}' is a disk of another guest: {volume}");
        Some((text, advice.into()))
    } else {
        None
    }
}

/// Such as `local-lvm:base-9-disk-0/vm-200-disk-0`, or with directories `local:9/base-9-disk-0.raw/200/…`.
fn is_linked_clone(volume: &str) -> bool {
    let name = volume.split_once(':').map_or(volume, |(_, name)| name);
    let mut parts = name.split('/').rev();
    let _own = parts.next();
    parts.any(|part| part.starts_with("base-") || part.starts_with("basevol-"))
}

/// The guest that the name of a volume contains: in a directory that of the folder, as in `100/name.qcow2`, otherwise
/// that of the name, as in `vm-100-disk-0`.
fn owner(volume: &str) -> Option<u32> {
    let (_, path) = volume.split_once(':')?;
    let (folder, name) = match path.rsplit_once('/') {
        Some((folders, name)) => (folders.rsplit('/').next().unwrap_or_default(), name),
        None => ("", path),
    };
    let mut words = name.split('-');
    let kind = words.next()?;
    let of_name = words.next().and_then(|number| number.parse().ok());
    let of_name = of_name.filter(|_| ["vm", "subvol", "base", "basevol"].contains(&kind));
    folder.parse().ok().or(of_name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    fn of(kind: Kind, text: &str) -> String {
        let found = obstacles(&Guest::parse(kind, 200, text));
        let found: Vec<String> = found
            .into_iter()
            .map(|(text, advice)| format!("{text} -> {advice}"))
            .collect();
        found.join("\n")
    }

    #[test]
    fn a_guest_that_can_be_moved_has_none() {
        let text = "memory: 512\nide0: local:200/vm-200-cloudinit.qcow2,media=cdrom\nide2: none,media=cdrom\nscsi0: local-lvm:vm-200-disk-0,size=8G\nscsi1: local:200/vm-200-disk-1.qcow2,size=8G\nscsi2: file=zfs:vm-200-disk-2\nscsi3: local:200/vm-33-disk-1.qcow2\nscsi4: /dev/sdx,shared=1\n\n[PENDING]\nmemory: 1024\nscsi4: local:200/vm-200-disk-4.qcow2\n\n[special:cloudinit]\nide2: local:iso/a.iso,media=cdrom\n";
        assert_eq!(of(Kind::Qemu, text), "");
        let text = "rootfs: zfs:subvol-200-disk-0,size=8G\nmp0: volume=zfs:subvol-200-disk-1,mp=/srv\nnet0: name=eth0\n";
        assert_eq!(of(Kind::Lxc, text), "");
    }

    #[test]
    fn a_volume_without_an_owner_in_its_name_is_a_doubt() {
        let text = "ide2: local:iso/a.iso,media=cdrom\nscsi0: iscsi:0.0.1.scsi-xyz,size=1G\nscsi1: lvm:vm-200-disk-0\nscsi2: local:9/a.raw\nscsi3: /dev/sdx,shared=1\n";
        let guest = Guest::parse(Kind::Qemu, 200, text);
        let found = doubts(&guest);
        let [(text, advice)] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert!(
            text.contains("'scsi0'") && text.contains("iscsi:0.0.1.scsi-xyz"),
            "{text}"
        );
        assert!(
            advice.to_string().ends_with("pvesm list iscsi --vmid 200"),
            "{advice}"
        );
        let other = of(Kind::Qemu, "scsi2: local:9/a.raw\n");
        assert!(
            other.starts_with("'scsi2' is a disk of another guest"),
            "{other}"
        );
    }

    #[test]
    fn each_obstacle_is_found() {
        #[rustfmt::skip] // One row a line.
        let table = [
            (Kind::Qemu, "lock: backup\n", "the guest is locked ('backup') -> wait until the task that has locked it ends"),
            (Kind::Qemu, "lock: migrate\n", "the guest is locked ('migrate') -> wait until the task that has locked it ends; 'pve-tunnel leftovers'"),
            (Kind::Qemu, "lock: suspended\n", "the guest is locked ('suspended') -> resume it: qm resume 200"),
            (Kind::Lxc, "lock: mounted\n", "the guest is locked ('mounted') -> unmount it: pct unmount 200"),
            (Kind::Qemu, "cores: 1\n\n[before]\ncores: 1\n", "the guest has the snapshot 'before' -> delete it before the migration: qm delsnapshot 200 before"),
            (Kind::Qemu, "cores: 1\n[a b]\n", "the guest has the snapshot 'a b' -> delete it before the migration: qm delsnapshot 200 'a b'"),
            (Kind::Lxc, "cores: 1\n[pending]\n[s]\n", "the guest has the snapshot 's' -> delete it before the migration: pct delsnapshot 200 s"),
            (Kind::Qemu, "ide2: local:iso/a.iso,media=cdrom,size=1M\n", "'ide2' has a CD: local:iso/a.iso -> eject it before the migration: qm set 200 --ide2 none,media=cdrom"),
            (Kind::Qemu, "ide2: cdrom,media=cdrom\n", "'ide2' has a CD: cdrom -> eject"),
            (Kind::Qemu, "scsi0: lvm:base-9-disk-0/vm-200-disk-0,size=1G\n", "'scsi0' is a linked clone: lvm:base-9-disk-0/vm-200-disk-0 -> make"),
            (Kind::Qemu, "scsi0: local:9/base-9-disk-0.raw/200/vm-200-disk-0.qcow2\n", "'scsi0' is a linked clone"),
            (Kind::Lxc, "rootfs: zfs:basevol-9-disk-0/subvol-200-disk-0\n", "'rootfs' is a linked clone"),
            (Kind::Qemu, "scsi1: lvm:vm-9-disk-0,size=1G\n", "'scsi1' is a disk of another guest: lvm:vm-9-disk-0 -> move"),
            (Kind::Qemu, "scsi0: /dev/disk/by-id/ata-x,size=100G\n", "'scsi0' is no volume, but /dev/disk/by-id/ata-x of this node -> move its data"),
            (Kind::Qemu, "cores: 1\n[PENDING]\nide2: local:iso/a.iso,media=cdrom\n", "'ide2' has a CD: local:iso/a.iso (pending change) -> apply this change by a restart of the guest, or revert it: qm set 200 --revert ide2"),
            (Kind::Qemu, "cores: 1\n[pending]\nscsi5: /dev/sdb\n", "'scsi5' is no volume, but /dev/sdb of this node (pending change) -> apply"),
            (Kind::Qemu, "scsi1: nfs:9/vm-200-disk-0.raw,size=1G\n", "'scsi1' is a disk of another guest: nfs:9/vm-200-disk-0.raw -> move"),
            (Kind::Lxc, "mp0: /srv/share,mp=/share\n", "'mp0' is no volume, but /srv/share of this node -> remove"),
        ];
        for (kind, text, expected) in table {
            let found = of(kind, text);
            assert!(found.starts_with(expected), "{text}: {found}");
            assert!(!found.contains('\n'), "{text}: {found}");
        }
    }
}
