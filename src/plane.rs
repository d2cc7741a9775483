//! The vocabulary of migrations: which type was requested, and which plane carries guest data.

use serde::{Deserialize, Serialize};

/// The type of a migration, as the caller requests it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MigrationType {
    /// Guest data is encrypted and authenticated, or does not move.
    #[default]
    Secure,
    /// Guest data may travel in clear text.
    Insecure,
}

impl MigrationType {
    /// The type of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "secure" => Some(Self::Secure),
            "insecure" => Some(Self::Insecure),
            _ => None,
        }
    }

    /// Its name in calls, configurations and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Secure => "secure",
            Self::Insecure => "insecure",
        }
    }
}

/// How guest data travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    /// TLS and websockets through the target's API; always possible.
    Websocket,
    /// TLS 1.3 directly to the target's listener.
    Tls,
    /// Clear TCP to the target's listener.
    Tcp,
    /// Clear TCP from QEMU to QEMU.
    Qemu,
}

impl Plane {
    /// Its name in plans and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Websocket => "websocket",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::Qemu => "qemu",
        }
    }
}
