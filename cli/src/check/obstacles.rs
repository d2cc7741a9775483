//! What Proxmox VE does not move to another cluster, as far as the configuration of the guest shows it.

use super::advice::Advice;
use super::finding::{Finding, Step};
use super::guest::{Guest, Kind, property, volume};
use super::report::Report;
use crate::shell::quoted;

/// Reports each reason why the guest would be refused.
pub(super) fn check(guest: &Guest, report: &mut Report) {
    for (text, advice) in obstacles(guest) {
        report.add(Finding::failed(Step::Guest, text, advice));
    }
}

fn obstacles(guest: &Guest) -> Vec<(String, Advice)> {
    let (tool, vmid) = (guest.tool(), guest.vmid());
    let mut found = Vec::new();
    if let Some(lock) = guest.option("lock") {
        let advice = "wait until the task that has locked it ends; 'pve-tunnel leftovers' reports a lock without a task";
        found.push((format!("the guest is locked ('{lock}')"), advice.into()));
    }
    for name in guest.snapshots() {
        let advice = Advice::with_command(
            "delete it before the migration",
            format!("{tool} delsnapshot {vmid} {}", quoted(name)),
        );
        found.push((format!("the guest has the snapshot '{name}'"), advice));
    }
    for (key, value) in guest.options().filter(|(key, _)| guest.is_drive(key)) {
        let volume = volume(value);
        if property(value, "media") == Some("cdrom") {
            if volume != "none" && !volume.contains("cloudinit") {
                let advice = Advice::with_command(
                    "eject it before the migration",
                    format!("{tool} set {vmid} --{key} none,media=cdrom"),
                );
                found.push((format!("'{key}' has a CD: {volume}"), advice));
            }
        } else if guest.kind() == Kind::Lxc && volume.starts_with('/') {
            let advice = "remove it before the migration, and add it at the target afterwards";
            let text = format!("'{key}' is no volume, but {volume} of this node");
            found.push((text, advice.into()));
        } else if is_linked_clone(volume) {
            let advice = "make a full clone of the guest, and move that";
            let text = format!("'{key}' is a linked clone: {volume}");
            found.push((text, advice.into()));
        } else if owner(volume).is_some_and(|owner| owner != vmid) {
            let advice = "move the disk to this guest, or remove it from the guest's configuration";
            let text = format!("'{key}' is a disk of another guest: {volume}");
            found.push((text, advice.into()));
        }
    }
    found
}

/// Such as `local-lvm:base-9-disk-0/vm-200-disk-0`, or with directories `local:9/base-9-disk-0.raw/200/…`.
fn is_linked_clone(volume: &str) -> bool {
    let name = volume.split_once(':').map_or(volume, |(_, name)| name);
    let mut parts = name.split('/').rev();
    let _own = parts.next();
    parts.any(|part| part.starts_with("base-") || part.starts_with("basevol-"))
}

/// The guest that the name of a volume contains, such as `vm-100-disk-0`.
fn owner(volume: &str) -> Option<u32> {
    let name = volume.rsplit(['/', ':']).next()?;
    let mut words = name.split('-');
    let kind = words.next()?;
    let number = words.next()?.parse().ok()?;
    ["vm", "subvol", "base", "basevol"]
        .contains(&kind)
        .then_some(number)
}

#[cfg(test)]
mod tests {
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
        let text = "memory: 512\nide0: local:200/vm-200-cloudinit.qcow2,media=cdrom\nide2: none,media=cdrom\nscsi0: local-lvm:vm-200-disk-0,size=8G\nscsi1: local:200/vm-200-disk-1.qcow2,size=8G\nscsi2: file=zfs:vm-200-disk-2\nscsi3: other:custom-name\n\n[PENDING]\nmemory: 1024\n";
        assert_eq!(of(Kind::Qemu, text), "");
        let text = "rootfs: zfs:subvol-200-disk-0,size=8G\nmp0: volume=zfs:subvol-200-disk-1,mp=/srv\nnet0: name=eth0\n";
        assert_eq!(of(Kind::Lxc, text), "");
    }

    #[test]
    fn each_obstacle_is_found() {
        #[rustfmt::skip] // One row a line.
        let table = [
            (Kind::Qemu, "lock: backup\n", "the guest is locked ('backup') -> wait"),
            (Kind::Qemu, "cores: 1\n\n[before]\ncores: 1\n", "the guest has the snapshot 'before' -> delete it before the migration: qm delsnapshot 200 before"),
            (Kind::Qemu, "cores: 1\n[a b]\n", "the guest has the snapshot 'a b' -> delete it before the migration: qm delsnapshot 200 'a b'"),
            (Kind::Lxc, "cores: 1\n[pending]\n[s]\n", "the guest has the snapshot 's' -> delete it before the migration: pct delsnapshot 200 s"),
            (Kind::Qemu, "ide2: local:iso/a.iso,media=cdrom,size=1M\n", "'ide2' has a CD: local:iso/a.iso -> eject it before the migration: qm set 200 --ide2 none,media=cdrom"),
            (Kind::Qemu, "ide2: cdrom,media=cdrom\n", "'ide2' has a CD: cdrom -> eject"),
            (Kind::Qemu, "scsi0: lvm:base-9-disk-0/vm-200-disk-0,size=1G\n", "'scsi0' is a linked clone: lvm:base-9-disk-0/vm-200-disk-0 -> make"),
            (Kind::Qemu, "scsi0: local:9/base-9-disk-0.raw/200/vm-200-disk-0.qcow2\n", "'scsi0' is a linked clone"),
            (Kind::Lxc, "rootfs: zfs:basevol-9-disk-0/subvol-200-disk-0\n", "'rootfs' is a linked clone"),
            (Kind::Qemu, "scsi1: lvm:vm-9-disk-0,size=1G\n", "'scsi1' is a disk of another guest: lvm:vm-9-disk-0 -> move"),
            (Kind::Lxc, "mp0: /srv/share,mp=/share\n", "'mp0' is no volume, but /srv/share of this node -> remove"),
        ];
        for (kind, text, expected) in table {
            let found = of(kind, text);
            assert!(found.starts_with(expected), "{text}: {found}");
            assert!(!found.contains('\n'), "{text}: {found}");
        }
    }
}
