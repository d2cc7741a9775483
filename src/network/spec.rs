//! A migration network as an operator writes it.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::NetworkError;
use crate::scalar;

/// Longest name of an interface, in bytes: that of an alternative name, the kernel's `ALTIFNAMSIZ`
/// without the terminating NUL. The first name has at most 15 bytes (`IFNAMSIZ`).
pub const MAX_INTERFACE_LEN: usize = 127;

/// Shortest prefix, in bits; PVE's own format for a CIDR has the same bound. A wider network is not
/// one that belongs to a single operator, and the checks that keep clear text inside it would
/// accept almost every address.
pub(super) const MIN_PREFIX: u8 = 8;

/// A migration network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// Every address inside it matches. Host bits are cleared: `10.0.0.7/24` means `10.0.0.0/24`,
    /// as for `ip address show to`.
    Cidr(IpNet),
    /// Every address of the interface with this name, or with this alternative name, matches.
    Interface(String),
}

impl Spec {
    /// Reads `192.0.2.0/24`, `fd00::/64` or an interface name, which may be an alternative one
    /// (`ip link property`). Names follow the kernel's rules: 1 to 127 bytes, not `.` or `..`,
    /// without slash, colon and white space. Control and invisible characters are rejected too,
    /// because names are part of messages.
    ///
    /// # Errors
    /// [`NetworkError::Spec`], with the mistake. An address without a prefix is a mistake, because
    /// it could be read as an interface name.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let parsed = match text.split_once('/') {
            Some((address, prefix)) => cidr(address, prefix).map(Self::Cidr),
            None => interface(text).map(|name| Self::Interface(name.to_owned())),
        };
        parsed.map_err(|reason| NetworkError::Spec {
            spec: scalar::as_given(text),
            reason,
        })
    }
}

impl Spec {
    /// The network, if this is a CIDR.
    pub(super) fn cidr(&self) -> Option<&IpNet> {
        match self {
            Self::Cidr(network) => Some(network),
            Self::Interface(_) => None,
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cidr(network) => write!(f, "migration network '{network}'"),
            Self::Interface(name) => write!(f, "migration network '{name}' (an interface)"),
        }
    }
}

/// Reads a CIDR: a literal address, and the prefix length in decimal. Clears the host bits.
///
/// The error is what is wrong with it, as the rest of a sentence.
pub(super) fn cidr(address: &str, prefix: &str) -> Result<IpNet, String> {
    let Ok(address) = address.parse::<IpAddr>() else {
        return mistake(if address.contains('%') {
            "has a zone; write the network without it, or name the interface"
        } else {
            "is not a CIDR: the part before the slash is not an IP address"
        });
    };
    if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return mistake("is an IPv4 network written as IPv6; write it as IPv4");
    }
    let Some(prefix) = scalar::decimal_text(prefix).and_then(|bits| u8::try_from(bits).ok()) else {
        return mistake("is not a CIDR: the part after the slash is not a prefix length");
    };
    let Ok(network) = IpNet::new(address, prefix) else {
        return mistake("has a prefix longer than an address of its family");
    };
    if prefix < MIN_PREFIX {
        return mistake(format!(
            "is too wide: a migration network has a prefix of at least {MIN_PREFIX} bits"
        ));
    }
    Ok(network.trunc())
}

/// The error is what is wrong with the name, as the rest of a sentence.
fn interface(name: &str) -> Result<&str, String> {
    if name.is_empty() {
        return mistake("is empty");
    }
    if name.parse::<IpAddr>().is_ok() {
        return mistake("is an address; write it with its prefix length, as in 192.0.2.0/24");
    }
    if name == "." || name == ".." {
        return mistake("cannot be the name of an interface");
    }
    if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return mistake("has white space or control characters");
    }
    if scalar::has_invisible(name) {
        return mistake("has invisible characters");
    }
    if name.contains(':') {
        return mistake(
            "has a colon: it is neither a CIDR nor the name of an interface (an alias is not an interface of its own)",
        );
    }
    if name.len() > MAX_INTERFACE_LEN {
        return mistake(format!(
            "is neither a CIDR nor the name of an interface, which has at most {MAX_INTERFACE_LEN} bytes"
        ));
    }
    Ok(name)
}

fn mistake<T>(reason: impl Into<String>) -> Result<T, String> {
    Err(reason.into())
}
