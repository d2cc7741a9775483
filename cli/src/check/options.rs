//! What the target requires for the options of a guest.
//!
//! The worker at the target writes the configuration that it receives with the privileges of the token: for a VM
//! as `qm set` would (`config` of the tunnel and `$update_vm_api` in `PVE::API2::Qemu`), for a container with
//! `PVE::LXC::check_ct_modify_config_perm`. It does so after the disks of a stopped guest were sent.

use super::guest::{Guest, Kind, property, split_index};

/// Most VLAN tags of one network device that are checked, because each needs a request.
const MAX_TAGS: usize = 32;

/// What one option requires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rule {
    /// A privilege on the path of the guest.
    Guest(&'static str),
    /// One of two privileges on the path of the guest.
    OneOf(&'static str, &'static str),
    /// A privilege on another path.
    On(String, &'static str),
    /// Only `root@pam` itself may set it, and no token.
    RootOnly,
    /// It is not known what it requires.
    Unknown,
}

use Rule::{Guest as OnGuest, On, OneOf, RootOnly, Unknown};

const CDROM: Rule = OnGuest("VM.Config.CDROM");
const CLOUDINIT: Rule = OnGuest("VM.Config.Cloudinit");
const CPU: Rule = OnGuest("VM.Config.CPU");
const DISK: Rule = OnGuest("VM.Config.Disk");
const HWTYPE: Rule = OnGuest("VM.Config.HWType");
const MEMORY: Rule = OnGuest("VM.Config.Memory");
const NETWORK: Rule = OnGuest("VM.Config.Network");
const OPTIONS: Rule = OnGuest("VM.Config.Options");

/// Each rule, with the option that it is for.
pub(super) fn rules(guest: &Guest) -> Vec<(&str, Rule)> {
    let of_option = |(key, value)| {
        let rules = match guest.kind() {
            Kind::Qemu => of_vm(key, value),
            Kind::Lxc => of_container(key, value, is_privileged(guest)),
        };
        rules.into_iter().map(move |rule| (key, rule))
    };
    let mut rules: Vec<_> = guest.options().flat_map(of_option).collect();
    if guest.kind() == Kind::Lxc && is_privileged(guest) {
        rules.push(("unprivileged 0", On("/".to_owned(), "Sys.Modify")));
    }
    rules
}

/// The paths of the network devices, with their options: those of the VLAN tags of a device, below the path of its
/// bridge, or that path. None for a device without a bridge. `path_of`: the path of what replaces a bridge.
pub(super) fn bridge_paths(guest: &Guest, path_of: impl Fn(&str) -> String) -> Vec<(&str, String)> {
    let devices = guest.bridges();
    devices
        .flat_map(|(key, value, bridge)| {
            let bridge = path_of(bridge);
            let tag = property(value, "tag").map(str::to_owned);
            let trunks = property(value, "trunks").map_or(Vec::new(), tags);
            let mut paths: Vec<String> = tag
                .into_iter()
                .chain(trunks)
                .map(|tag| format!("{bridge}/{tag}"))
                .collect();
            if paths.is_empty() {
                paths.push(bridge);
            }
            paths.into_iter().map(move |path| (key, path))
        })
        .collect()
}

/// The tags in a list such as `10;20-22`, at most [`MAX_TAGS`].
fn tags(trunks: &str) -> Vec<String> {
    let ranges = trunks.split(';').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    });
    let tags = ranges.flatten().take(MAX_TAGS);
    tags.map(|tag| tag.to_string()).collect()
}

fn is_privileged(guest: &Guest) -> bool {
    guest.option("unprivileged") != Some("1")
}

/// `$check_vm_modify_config_perm` and the functions for single options beside it.
fn of_vm(key: &str, value: &str) -> Vec<Rule> {
    match split_index(key) {
        ("ide" | "sata" | "scsi" | "virtio" | "efidisk" | "tpmstate", Some(_)) => drive(value),
        // The worker accepts volumes of the guest itself.
        ("unused", Some(_)) => Vec::new(),
        ("numa", Some(_)) => vec![CPU],
        ("net", Some(_)) => vec![NETWORK],
        ("ipconfig", Some(_)) => vec![OneOf("VM.Config.Cloudinit", "VM.Config.Network")],
        ("serial", Some(_)) if value == "socket" => vec![HWTYPE],
        ("serial" | "parallel", Some(_)) => vec![RootOnly],
        ("usb", Some(_)) if default_property(value, "host").eq_ignore_ascii_case("spice") => {
            vec![HWTYPE]
        }
        ("hostpci", Some(_)) if property(value, "romfile").is_some() => vec![RootOnly],
        (bus @ ("usb" | "hostpci"), Some(_)) => match property(value, "mapping") {
            Some(mapping) => {
                let devices = if bus == "usb" { "usb" } else { "pci" };
                vec![HWTYPE, use_mapping(&format!("{devices}/{mapping}"))]
            }
            None => vec![RootOnly],
        },
        ("virtiofs", Some(_)) => {
            let directory = default_property(value, "dirid");
            vec![DISK, use_mapping(&format!("dir/{directory}"))]
        }
        ("rng", Some(_)) if default_property(value, "source") == "/dev/hwrng" => {
            vec![HWTYPE, use_mapping("hwrng")]
        }
        ("rng" | "audio", Some(_)) => vec![HWTYPE],
        ("smbios", Some(_)) => vec![HWTYPE],
        _ => of_vm_without_index(key, value),
    }
}

fn of_vm_without_index(key: &str, value: &str) -> Vec<Rule> {
    match key {
        "cpu" => match default_property(value, "cputype").strip_prefix("custom-") {
            Some(model) => vec![CPU, use_mapping(&format!("cpu/{model}"))],
            None => vec![CPU],
        },
        "cores" | "cpulimit" | "cpuunits" | "numa" | "smp" | "sockets" | "vcpus" => vec![CPU],
        "memory" | "balloon" | "shares" | "allow-ksm" => vec![MEMORY],
        "acpi" | "hotplug" | "kvm" | "machine" | "scsihw" | "tablet" | "vga" | "watchdog" => {
            vec![HWTYPE]
        }
        // It has an effect on the order in which the node starts guests.
        "startup" => vec![OPTIONS, On("/".to_owned(), "Sys.Modify")],
        "agent" | "autostart" | "bios" | "description" | "keyboard" | "localtime"
        | "migrate_downtime" | "migrate_speed" | "name" | "onboot" | "ostype" | "protection"
        | "reboot" | "startdate" | "tags" | "tdf" | "template" => vec![OPTIONS],
        "freeze" => vec![OnGuest("VM.PowerMgmt")],
        "boot" | "bootdisk" => vec![DISK],
        // The migration does not map this storage.
        "vmstatestorage" => {
            let storage = format!("/storage/{value}");
            vec![DISK, On(storage, "Datastore.AllocateSpace")]
        }
        "cicustom" | "cipassword" | "citype" | "ciuser" | "ciupgrade" | "nameserver"
        | "searchdomain" | "sshkeys" => vec![OneOf("VM.Config.Cloudinit", "VM.Config.Network")],
        "cdrom" => drive("x,media=cdrom"),
        "affinity" | "amd-sev" | "arch" | "args" | "hookscript" | "hugepages" | "intel-tdx"
        | "ivshmem" | "keephugepages" | "spice_enhancements" => vec![RootOnly],
        // The worker removes these from what it received.
        "digest" | "lock" | "meta" | "parent" | "vmgenid" => Vec::new(),
        _ => vec![Unknown],
    }
}

fn drive(value: &str) -> Vec<Rule> {
    let volume = value.split(',').next().unwrap_or_default();
    let volume = volume.strip_prefix("file=").unwrap_or(volume);
    if is_cloudinit(volume) {
        vec![CDROM, CLOUDINIT]
    } else if property(value, "media") != Some("cdrom") {
        vec![DISK]
    } else if volume == "cdrom" {
        vec![CDROM, On("/".to_owned(), "Sys.Console")]
    } else {
        vec![CDROM]
    }
}

/// Such as `local-lvm:vm-100-cloudinit` and `local:100/vm-100-cloudinit.qcow2`.
fn is_cloudinit(volume: &str) -> bool {
    let Some((_, name)) = volume.rsplit_once([':', '/']) else {
        return false;
    };
    let own = name
        .strip_prefix("vm-")
        .and_then(|rest| rest.split_once('-'));
    let name = own.map_or(name, |(_, name)| name);
    name == "cloudinit" || name.starts_with("cloudinit.")
}

/// `PVE::LXC::check_ct_modify_config_perm`.
fn of_container(key: &str, value: &str, privileged: bool) -> Vec<Rule> {
    match split_index(key) {
        ("rootfs", None) | ("mp", Some(_)) => {
            let volume = default_property(value, "volume");
            match volume.starts_with('/') {
                // A directory or a device of the node.
                true => vec![RootOnly],
                false => vec![DISK],
            }
        }
        ("net", Some(_)) | ("hostname" | "nameserver" | "searchdomain", None) => vec![NETWORK],
        ("cores" | "cpulimit" | "cpuunits", None) => vec![CPU],
        ("memory" | "swap", None) => vec![MEMORY],
        ("dev", Some(_)) | ("hookscript", None) => vec![RootOnly],
        ("features", None) => {
            let only_nesting = value.starts_with("nesting=") && !value.contains(',');
            match privileged || !only_nesting {
                true => vec![RootOnly],
                false => vec![OnGuest("VM.Allocate")],
            }
        }
        // The worker removes these from what it received, or sets them without a check.
        ("arch" | "digest" | "lock" | "parent" | "unprivileged", None) => Vec::new(),
        _ if key.starts_with("lxc.") => Vec::new(),
        _ => vec![OPTIONS],
    }
}

fn use_mapping(mapping: &str) -> Rule {
    On(format!("/mapping/{mapping}"), "Mapping.Use")
}

/// The value of the property whose name may be omitted: `x` in `x,a=1` and in `name=x,a=1`.
fn default_property<'a>(value: &'a str, name: &str) -> &'a str {
    let bare = value.split(',').find(|part| !part.contains('='));
    property(value, name).or(bare).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(rules: &[Rule]) -> String {
        let rules = rules.iter().map(|rule| match rule {
            OnGuest(privilege) => (*privilege).to_owned(),
            OneOf(first, second) => format!("{first}|{second}"),
            On(path, privilege) => format!("{path} {privilege}"),
            RootOnly => "root".to_owned(),
            Unknown => "unknown".to_owned(),
        });
        rules
            .collect::<Vec<_>>()
            .join(", ")
            .replace("VM.Config.", "")
    }

    #[test]
    fn each_option_of_a_vm_has_its_rule() {
        #[rustfmt::skip] // One row a line.
        let table = [
            ("scsi0", "local-lvm:vm-100-disk-0,size=32G", "Disk"),
            ("efidisk0", "local-lvm:vm-100-disk-1,size=4M", "Disk"),
            ("unused0", "local-lvm:vm-100-disk-2", ""),
            ("ide2", "none,media=cdrom", "CDROM"),
            ("ide2", "cdrom,media=cdrom", "CDROM, / Sys.Console"),
            ("ide2", "local-lvm:vm-100-cloudinit,media=cdrom", "CDROM, Cloudinit"),
            ("ide2", "local:100/vm-100-cloudinit.qcow2,media=cdrom,size=4M", "CDROM, Cloudinit"),
            ("scsi1", "local:100/cloudinit-data.raw", "Disk"),
            ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0", "Network"),
            ("numa", "1", "CPU"), ("numa0", "cpus=0", "CPU"),
            ("cpu", "host,flags=+aes", "CPU"),
            ("cpu", "custom-epyc,flags=+aes", "CPU, /mapping/cpu/epyc Mapping.Use"),
            ("cpu", "cputype=custom-epyc", "CPU, /mapping/cpu/epyc Mapping.Use"),
            ("memory", "4096", "Memory"),
            ("smbios1", "uuid=x", "HWType"), ("vga", "qxl", "HWType"), ("audio0", "x", "HWType"),
            ("agent", "1", "Options"), ("tags", "a;b", "Options"),
            ("startup", "order=1", "Options, / Sys.Modify"),
            ("boot", "order=scsi0", "Disk"),
            ("vmstatestorage", "fast", "Disk, /storage/fast Datastore.AllocateSpace"),
            ("ipconfig0", "ip=dhcp", "Cloudinit|Network"), ("ciuser", "x", "Cloudinit|Network"),
            ("serial0", "socket", "HWType"), ("serial1", "/dev/ttyS0", "root"),
            ("parallel0", "/dev/parport0", "root"),
            ("usb0", "spice,usb3=1", "HWType"), ("usb0", "host=SPICE", "HWType"),
            ("usb0", "host=1-2", "root"), ("usb0", "1-2", "root"),
            ("usb0", "mapping=stick,usb3=1", "HWType, /mapping/usb/stick Mapping.Use"),
            ("hostpci0", "0000:01:00,pcie=1", "root"),
            ("hostpci0", "mapping=gpu,pcie=1", "HWType, /mapping/pci/gpu Mapping.Use"),
            ("hostpci0", "mapping=gpu,romfile=x.bin", "root"),
            ("virtiofs0", "share,cache=auto", "Disk, /mapping/dir/share Mapping.Use"),
            ("rng0", "source=/dev/urandom", "HWType"),
            ("rng0", "source=/dev/hwrng,period=1000", "HWType, /mapping/hwrng Mapping.Use"),
            ("args", "-S", "root"), ("hookscript", "local:snippets/x", "root"), ("affinity", "0", "root"),
            ("vmgenid", "x", ""), ("meta", "x", ""), ("lock", "backup", ""),
            ("freeze", "1", "VM.PowerMgmt"),
            ("future", "1", "unknown"),
        ];
        for (key, value, expected) in table {
            assert_eq!(shown(&of_vm(key, value)), expected, "{key}: {value}");
        }
    }

    #[test]
    fn each_option_of_a_container_has_its_rule() {
        #[rustfmt::skip] // One row a line.
        let table = [
            ("rootfs", "local-lvm:vm-101-disk-0,size=8G", false, "Disk"),
            ("mp0", "volume=local-lvm:vm-101-disk-1,mp=/srv", false, "Disk"),
            ("mp1", "/srv/share,mp=/share", false, "root"),
            ("net0", "name=eth0,bridge=vmbr0", false, "Network"),
            ("hostname", "x", false, "Network"), ("nameserver", "192.0.2.1", false, "Network"),
            ("cores", "2", false, "CPU"), ("swap", "512", false, "Memory"),
            ("dev0", "/dev/ttyUSB0", false, "root"), ("hookscript", "local:snippets/x", false, "root"),
            ("features", "nesting=1", false, "VM.Allocate"), ("features", "nesting=1", true, "root"),
            ("features", "keyctl=1,nesting=1", false, "root"), ("features", "nesting=1,fuse=1", false, "root"),
            ("startup", "order=1", false, "Options"), ("unused0", "x:y", false, "Options"),
            ("unprivileged", "1", false, ""), ("arch", "amd64", false, ""), ("lxc.cap.drop", "x", false, ""),
        ];
        for (key, value, privileged, expected) in table {
            let rules = of_container(key, value, privileged);
            assert_eq!(shown(&rules), expected, "{key}: {value}");
        }
    }

    #[test]
    fn a_privileged_container_requires_more() {
        let of = |text| {
            let guest = Guest::parse(Kind::Lxc, 101, text);
            let rules: Vec<Rule> = rules(&guest).into_iter().map(|(_, rule)| rule).collect();
            shown(&rules)
        };
        assert_eq!(of("cores: 1\nunprivileged: 1\n"), "CPU");
        assert_eq!(of("cores: 1\nunprivileged: 0\n"), "CPU, / Sys.Modify");
        assert_eq!(of("cores: 1\n"), "CPU, / Sys.Modify");
    }

    #[test]
    fn the_path_of_a_network_device_has_its_tags() {
        let of = |text| {
            let guest = Guest::parse(Kind::Qemu, 100, text);
            let paths = bridge_paths(&guest, |_| "vmbr0".to_owned()).into_iter();
            paths.map(|(_, path)| path).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("net0: virtio=x,bridge=vmbr1\n"), "vmbr0");
        assert_eq!(of("net0: virtio=x\nnets: bridge=x\n"), "");
        assert_eq!(of("net0: virtio=x,bridge=a,tag=7\n"), "vmbr0/7");
        assert_eq!(
            of("net0: virtio=x,bridge=a,trunks=7;9-11\n"),
            "vmbr0/7 vmbr0/9 vmbr0/10 vmbr0/11"
        );
        assert_eq!(
            of("net0: virtio=x,bridge=a,trunks=1-4094\n")
                .split(' ')
                .count(),
            MAX_TAGS
        );
    }
}
