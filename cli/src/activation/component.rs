//! The three files that can be diverted: their paths, replacements and packages. The Debian package
//! installs the replacements at the paths given here.

use serde::Serialize;
use std::fmt;

/// The package to which dpkg attributes the diversions.
pub(super) const PACKAGE: &str = "pve-tunnel";

/// The dpkg trigger on which the daemons of Proxmox VE reload.
pub(super) const RELOAD_TRIGGER: &str = "pve-api-updates";

/// dpkg's conventional name extension of a diverted file.
pub(super) const DISTRIB: &str = ".distrib";

/// Name extension of a file or link that is being created, until it is renamed. No package contains
/// a file with this extension.
pub(super) const UNFINISHED: &str = ".pve-tunnel-new";

/// A file that can be diverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// The module `PVE::Tunnel`, which the source of a migration calls.
    Overlay,
    /// The module `PVE::StorageTunnel`. The worker on the target calls its handlers.
    Seam,
    /// The program that a stock `PVE::Tunnel` runs.
    Helper,
}

impl Component {
    /// Every component, in the order in which they are switched.
    pub const ALL: [Self; 3] = [Self::Overlay, Self::Seam, Self::Helper];

    /// The path of the stock file.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Overlay => "/usr/share/perl5/PVE/Tunnel.pm",
            Self::Seam => "/usr/share/perl5/PVE/StorageTunnel.pm",
            Self::Helper => "/usr/bin/proxmox-websocket-tunnel",
        }
    }

    /// The path at which dpkg keeps the stock file while the component is on.
    #[must_use]
    pub fn distrib(self) -> String {
        format!("{}{DISTRIB}", self.path())
    }

    /// The path of the file that replaces the stock file.
    #[must_use]
    pub fn replacement(self) -> &'static str {
        match self {
            Self::Overlay => "/usr/share/pve-tunnel/perl5/PVE/Tunnel.pm",
            Self::Seam => "/usr/share/pve-tunnel/perl5/PVE/StorageTunnel.pm",
            Self::Helper => "/usr/bin/pve-tunnel",
        }
    }

    /// The target of the symbolic link to the replacement. It is relative, as Debian requires for
    /// links within `/usr`.
    #[must_use]
    pub fn link(self) -> &'static str {
        match self {
            Self::Overlay => "../../pve-tunnel/perl5/PVE/Tunnel.pm",
            Self::Seam => "../../pve-tunnel/perl5/PVE/StorageTunnel.pm",
            Self::Helper => "pve-tunnel",
        }
    }

    /// The package that contains the stock file.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Self::Overlay | Self::Seam => "libpve-guest-common-perl",
            Self::Helper => "proxmox-websocket-tunnel",
        }
    }

    /// Whether running daemons have the component loaded, so that they have to reload after a
    /// change.
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
