//! A remote, in the one form in which two spellings of it are equal.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Longest host name, and longest label of one (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A host as the `host` of a target endpoint names it.
///
/// Names are equal without regard to case and a dot at the end, addresses by their value:
/// `[FD00::1]` is `fd00:0::1`, and `::ffff:192.0.2.7` is `192.0.2.7`, which is where a connection
/// to it goes. A name never equals an address: nothing is resolved here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A literal address.
    Address(IpAddr),
    /// A name, in lower case.
    Name(String),
}

impl Host {
    /// Reads a host name, an IPv4 address, or an IPv6 address with or without brackets.
    ///
    /// # Errors
    /// What is wrong with it, to be put after it: ports, zones, short forms of IPv4, and characters
    /// that are in no host name.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("is empty");
        }
        if let Some(open) = text.strip_prefix('[') {
            let (inner, after) = open.split_once(']').ok_or("has no closing bracket")?;
            if after.starts_with(':') {
                return Err("has a port; write the host alone");
            }
            if !after.is_empty() {
                return Err("has something after its closing bracket");
            }
            return v6(inner);
        }
        if text.contains('%') {
            return v6(text);
        }
        if let Some((host, port)) = text.split_once(':') {
            if !host.is_empty() && digits(port) {
                return Err("has a port; write the host alone");
            }
            return v6(text);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.rsplit('.').next().is_some_and(digits) {
            // No top-level domain is a number. Resolvers take 10.1 and 167772161 for 10.0.0.1, a
            // reader does not.
            let address = text.parse::<IpAddr>();
            return address
                .map(Self::Address)
                .map_err(|_| "is no IPv4 address of four decimal numbers without leading zeros");
        }
        name_of(name)
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn v6(text: &str) -> Result<Host, &'static str> {
    if text.contains('%') {
        return Err("has a zone; write a name or an address that does without");
    }
    text.parse::<Ipv6Addr>()
        .map(|address| Host::Address(IpAddr::V6(address).to_canonical()))
        .map_err(|_| "is no IPv6 address")
}

fn name_of(name: &str) -> Result<Host, &'static str> {
    // Underscores are in no host name by RFC 952, and in many by practice.
    let of_names = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.len() > MAX_NAME {
        return Err("is longer than 253 characters");
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err("has an empty label");
        }
        if label.len() > MAX_LABEL {
            return Err("has a label of more than 63 characters");
        }
        if !label.bytes().all(of_names) {
            return Err("has characters that are in no host name (international names: as xn--…)");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("has a label that begins or ends with '-'");
        }
    }
    Ok(Host::Name(name.to_ascii_lowercase()))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}
