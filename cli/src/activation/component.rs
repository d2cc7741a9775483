//! The three files that are diverted, and where everything of theirs is. The packages put the
//! stand-ins where this file says.

use serde::Serialize;
use std::fmt;

/// The package in whose name files are diverted.
pub(super) const PACKAGE: &str = "pve-tunnel";

/// The dpkg trigger on which Proxmox VE's daemons reload.
pub(super) const RELOAD_TRIGGER: &str = "pve-api-updates";

/// dpkg's convention for the name of a diverted file.
pub(super) const DISTRIB: &str = ".distrib";

/// What is being made, until it is renamed to its place. No package has such a name.
pub(super) const UNFINISHED: &str = ".pve-tunnel-new";

/// One diverted file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// `PVE::Tunnel`, which a source calls.
    Overlay,
    /// `PVE::StorageTunnel`, of which a target's worker calls a handler.
    Seam,
    /// The program that a stock `PVE::Tunnel` runs.
    Helper,
}

impl Component {
    /// All of them, in the order in which they are switched.
    pub const ALL: [Self; 3] = [Self::Overlay, Self::Seam, Self::Helper];

    /// The stock file.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Overlay => "/usr/share/perl5/PVE/Tunnel.pm",
            Self::Seam => "/usr/share/perl5/PVE/StorageTunnel.pm",
            Self::Helper => "/usr/bin/proxmox-websocket-tunnel",
        }
    }

    /// Where dpkg keeps the stock file while the component is on.
    #[must_use]
    pub fn distrib(self) -> String {
        format!("{}{DISTRIB}", self.path())
    }

    /// What takes the place of the stock file.
    #[must_use]
    pub fn replacement(self) -> &'static str {
        match self {
            Self::Overlay => "/usr/share/pve-tunnel/perl5/PVE/Tunnel.pm",
            Self::Seam => "/usr/share/pve-tunnel/perl5/PVE/StorageTunnel.pm",
            Self::Helper => "/usr/bin/pve-tunnel",
        }
    }

    /// The stand-in as the symbolic link names it: relative, as all links within `/usr` are in
    /// Debian.
    #[must_use]
    pub fn link(self) -> &'static str {
        match self {
            Self::Overlay => "../../pve-tunnel/perl5/PVE/Tunnel.pm",
            Self::Seam => "../../pve-tunnel/perl5/PVE/StorageTunnel.pm",
            Self::Helper => "pve-tunnel",
        }
    }

    /// The package that the stock file is of.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Self::Overlay | Self::Seam => "libpve-guest-common-perl",
            Self::Helper => "proxmox-websocket-tunnel",
        }
    }

    /// Running daemons have it loaded, and have to be told of a change.
    pub(super) fn is_module(self) -> bool {
        self != Self::Helper
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Overlay => "overlay",
            Self::Seam => "seam",
            Self::Helper => "helper",
        })
    }
}
