//! A migration network as an operator writes it.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::NetworkError;
use crate::scalar;

/// Longest interface name: the kernel's `IFNAMSIZ` less the terminating zero.
const MAX_INTERFACE_LEN: usize = 15;

/// Shortest prefix: PVE's own format for a CIDR asks for as much. Anything wider is no network of
/// one's own, and would let every address pass the checks that keep clear text inside it.
pub(super) const MIN_PREFIX: u8 = 8;

/// A migration network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// Every address inside it matches. Host bits are cleared: `10.0.0.7/24` means `10.0.0.0/24`,
    /// as `ip address show to` takes it.
    Cidr(IpNet),
    /// Every address of the interface matches.
    Interface(String),
}

impl Spec {
    /// Reads `192.0.2.0/24`, `fd00::/64` or an interface name by the kernel's rules (1 to 15 bytes,
    /// not `.` or `..`, no slash, colon, white space, and here no control characters, since names
    /// go into messages).
    ///
    /// # Errors
    /// Each kind of mistake has its own words. An address without a prefix is one: it would pass
    /// for an interface name.
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let parsed = match text.split_once('/') {
            Some((address, prefix)) => cidr(address, prefix).map(Self::Cidr),
            None => interface(text).map(|name| Self::Interface(name.to_owned())),
        };
        parsed.map_err(|reason| NetworkError::Spec {
            spec: scalar::one_line(text),
            reason,
        })
    }
}

impl Spec {
    /// The CIDR, if it is one.
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

/// A CIDR, strictly: a literal address, a plain decimal prefix, host bits cleared.
pub(super) fn cidr(address: &str, prefix: &str) -> Result<IpNet, &'static str> {
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(if address.contains('%') {
            "has a zone; write the network without it, or name the interface"
        } else {
            "is no CIDR: what stands before the slash is no IP address"
        });
    };
    if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        return Err("is an IPv4 network written as IPv6; write it as IPv4");
    }
    let prefix = scalar::decimal_text(prefix)
        .and_then(|bits| u8::try_from(bits).ok())
        .ok_or("is no CIDR: what stands after the slash is no prefix length")?;
    let Ok(network) = IpNet::new(address, prefix) else {
        return Err("has a prefix longer than an address of its family");
    };
    if prefix < MIN_PREFIX {
        return Err("is too wide: a migration network has a prefix of at least 8 bits");
    }
    Ok(network.trunc())
}

fn interface(name: &str) -> Result<&str, &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.parse::<IpAddr>().is_ok() {
        return Err("is an address; write it with its prefix length, as in 192.0.2.0/24");
    }
    if name == "." || name == ".." {
        return Err("cannot be the name of an interface");
    }
    if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("has white space or control characters");
    }
    if name.contains(':') {
        return Err(
            "has a colon: it is neither a CIDR nor the name of an interface (aliases have none of their own)",
        );
    }
    if name.len() > MAX_INTERFACE_LEN {
        return Err("is neither a CIDR nor the name of an interface, which has at most 15 bytes");
    }
    Ok(name)
}
