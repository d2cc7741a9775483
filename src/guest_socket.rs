//! The names that Proxmox VE gives to the UNIX sockets of a guest's migration, on both nodes.

/// A socket of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestSocket {
    /// The guest's ID on the node of the socket.
    pub(crate) vmid: u32,
    pub(crate) content: Content,
}

/// What the connections to a socket carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Content {
    /// The RAM of a running guest.
    Ram,
    /// The disks of a running guest (NBD).
    Disks,
    /// A volume, or something that is not known.
    #[default]
    Other,
}

impl GuestSocket {
    /// From the path of the socket: `100.migrate` for RAM, `100_nbd.migrate` for disks,
    /// `100.storage` for a volume, in any directory.
    pub(crate) fn of(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next()?;
        let end = name.find(|c: char| !c.is_ascii_digit())?;
        let (vmid, rest) = name.split_at(end);
        let content = match rest {
            ".migrate" => Content::Ram,
            "_nbd.migrate" => Content::Disks,
            ".storage" => Content::Other,
            _ => return None,
        };
        let vmid = vmid.parse().ok()?;
        Some(Self { vmid, content })
    }
}

impl Content {
    /// From the path of the socket.
    pub(crate) fn of(path: &str) -> Self {
        GuestSocket::of(path).map_or(Self::Other, |socket| socket.content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_and_content_follow_from_the_name_of_the_socket() {
        for (path, vmid, content) in [
            ("/run/qemu-server/100.migrate", Some(100), Content::Ram),
            (
                "/run/qemu-server/100_nbd.migrate",
                Some(100),
                Content::Disks,
            ),
            ("/run/pve/100.storage", Some(100), Content::Other),
            ("999999999.migrate", Some(999_999_999), Content::Ram),
            ("/run/qemu-server/99999999999.migrate", None, Content::Other),
            ("/run/qemu-server/x.migrate", None, Content::Other),
            ("/run/qemu-server/.migrate", None, Content::Other),
            ("/run/qemu-server/_nbd.migrate", None, Content::Other),
            ("/run/qemu-server/100.qmp", None, Content::Other),
            ("/run/100.migrate/other", None, Content::Other),
            ("100", None, Content::Other),
            ("", None, Content::Other),
        ] {
            let found = GuestSocket::of(path).map(|socket| socket.vmid);
            assert_eq!((found, Content::of(path)), (vmid, content), "{path}");
        }
    }
}
