//! The host name or address of a remote, in a form in which different spellings of it are equal.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Longest host name, and longest label of a host name, in characters (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A host, as the property `host` of a target endpoint names it.
///
/// Names are compared without regard to case and a dot at the end. Addresses are compared by value:
/// `[FD00::1]` equals `fd00:0::1`, and `::ffff:192.0.2.7` equals `192.0.2.7`, because a connection
/// to it goes to that address. A name never equals an address, because names are not resolved here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A literal address; IPv4 if it was written as IPv4 inside IPv6.
    Address(IpAddr),
    /// A name, in lower case and without a dot at the end.
    Name(String),
}

impl Host {
    /// Reads a host name, an IPv4 address, or an IPv6 address with or without brackets.
    ///
    /// # Errors
    /// What is wrong with it, as the rest of a sentence: a port, a zone, a short form of IPv4, or
    /// characters that a host name cannot have.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return mistake("is empty");
        }
        if let Some(open) = text.strip_prefix('[') {
            let Some((inner, after)) = open.split_once(']') else {
                return mistake("has no closing bracket");
            };
            if after.starts_with(':') {
                return mistake(WITH_PORT);
            }
            if !after.is_empty() {
                return mistake("has text after its closing bracket");
            }
            return v6(inner);
        }
        if text.contains('%') {
            return v6(text);
        }
        if let Some((host, port)) = text.split_once(':') {
            if !host.is_empty() && digits(port) {
                return mistake(WITH_PORT);
            }
            return v6(text);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.rsplit('.').next().is_some_and(digits) {
            // No top-level domain is a number. Resolvers read 10.1 and 167772161 as 10.0.0.1, which
            // a person does not expect.
            return match text.parse::<IpAddr>() {
                Ok(address) => Ok(Self::Address(address)),
                Err(_) => {
                    mistake("is not an IPv4 address of four decimal numbers without leading zeros")
                }
            };
        }
        name_of(name)
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn v6(text: &str) -> Result<Host, String> {
    if text.contains('%') {
        return mistake("has a zone; write a name, or an address without a zone");
    }
    match text.parse::<Ipv6Addr>() {
        Ok(address) => Ok(Host::Address(IpAddr::V6(address).to_canonical())),
        Err(_) => mistake("is not an IPv6 address"),
    }
}

fn name_of(name: &str) -> Result<Host, String> {
    // RFC 952 does not allow underscores, but many host names have them.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.len() > MAX_NAME {
        return mistake(format!("is longer than {MAX_NAME} characters"));
    }
    for label in name.split('.') {
        if label.is_empty() {
            return mistake("has an empty label");
        }
        if label.len() > MAX_LABEL {
            return mistake(format!("has a label of more than {MAX_LABEL} characters"));
        }
        if !label.bytes().all(allowed) {
            return mistake(
                "has characters that a host name cannot have (write international names as xn--…)",
            );
        }
        if label.starts_with('-') || label.ends_with('-') {
            return mistake("has a label that begins or ends with '-'");
        }
    }
    Ok(Host::Name(name.to_ascii_lowercase()))
}

const WITH_PORT: &str = "has a port; write the host alone";

fn mistake<T>(reason: impl Into<String>) -> Result<T, String> {
    Err(reason.into())
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}
