//! What a target announces for the `qemu` plane, judged before anybody connects there.
//!
//! The target is another administration's machine. What it announces decides where guest RAM and
//! disks go in clear text, so that only literal addresses in one spelling are taken, and only where
//! the source expects them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::{PORTS, announced, spec, uri_host};
use crate::scalar;

/// Longest export name. QEMU's own are `drive-` and the name of a drive.
const MAX_EXPORT_LEN: usize = 64;

/// What to check: exactly one of `migrate` and `nbd_uri`.
///
/// As JSON:
/// `{"migrate":{"proto":"tcp","addr":"192.0.2.7","port":60000},"network":"192.0.2.0/24","allow_loopback":false}`
/// or `{"nbd_uri":"nbd:192.0.2.7:60001:exportname=drive-scsi0","network":null}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointInput {
    /// Where QEMU listens for the RAM stream.
    #[serde(default)]
    pub migrate: Option<Migrate>,
    /// Where QEMU serves a disk: `nbd:<IPv4 or [IPv6]>:<port>:exportname=<name>`.
    #[serde(default)]
    pub nbd_uri: Option<String>,
    /// The migration network as CIDR, null if none is given. Who has an interface name passes the
    /// CIDR of the source's own address on it: the name means nothing on the other side.
    #[serde(default)]
    pub network: Option<String>,
    /// Accept loopback addresses: both ends are on one machine.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub allow_loopback: bool,
}

/// The worker's `migrate` answer. Other keys (`unix_sockets`) belong to other planes and are
/// ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migrate {
    /// `tcp`.
    pub proto: String,
    /// Literal address, IPv6 with or without brackets.
    pub addr: String,
    /// Number or decimal string.
    pub port: Value,
}

/// An endpoint that may be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// `tcp:<host>:<port>` or `nbd:<host>:<port>:exportname=<name>`, put together from the checked
    /// parts.
    pub uri: String,
    /// The name of the export, for NBD only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
}

/// Why an announced endpoint is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// Neither or both of `migrate` and `nbd_uri`.
    #[error("an endpoint is either 'migrate' or 'nbd_uri', got {0}")]
    NotOne(&'static str),
    /// The caller's own network is malformed.
    #[error("cannot check an endpoint against network '{network}': it {reason}")]
    Network {
        /// The text.
        network: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A protocol other than TCP.
    #[error("the target announces protocol {0}, expected 'tcp'")]
    Protocol(String),
    /// Not of the form `nbd:<address>:<port>:exportname=<name>`.
    #[error("the target announces NBD at {uri}: it {reason}")]
    NbdUri {
        /// What it announced.
        uri: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No literal address, or not in its one spelling.
    #[error("the target announces address {address}: it {reason}")]
    Literal {
        /// What it announced.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No decimal number in the migration range.
    #[error("the target announces port {port}: {reason}")]
    Port {
        /// What it announced.
        port: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An address guest data must not go to.
    #[error("the target announces address {address}: it is {kind}")]
    Special {
        /// The address.
        address: IpAddr,
        /// What it is.
        kind: &'static str,
    },
    /// Not in the migration network.
    #[error(
        "the target announces address {address}: it is outside the migration network {network}"
    )]
    Outside {
        /// The address.
        address: IpAddr,
        /// The network.
        network: IpNet,
    },
    /// A name that is no name of a drive's export.
    #[error("the target announces NBD export {name}: it {reason}")]
    Export {
        /// What it announced.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Checks one announced endpoint.
///
/// The address must be literal, in its usual spelling (no name, zone, short form, leading zero,
/// IPv4 inside IPv6), and not unspecified, multicast, broadcast, link-local (IPv4 link-local passes
/// if the network is one), or loopback (unless allowed); inside `network` if one is given; the port
/// in [`PORTS`]; an export name of letters, digits, `-`, `_` and `.`.
///
/// # Errors
/// One reason each.
pub fn check(input: &EndpointInput) -> Result<Endpoint, EndpointError> {
    let network = input.network.as_deref().map(network).transpose()?;
    match (&input.migrate, &input.nbd_uri) {
        (Some(migrate), None) => {
            if migrate.proto != "tcp" {
                return Err(EndpointError::Protocol(scalar::shown(&migrate.proto)));
            }
            let port = number(&migrate.port)?;
            let literal = unbracketed(&migrate.addr)?;
            let address = acceptable(literal, network, input.allow_loopback)?;
            Ok(Endpoint {
                address,
                port,
                uri: format!("tcp:{}:{port}", uri_host(address)),
                export: None,
            })
        }
        (None, Some(uri)) => {
            let (host, port, export) = nbd_parts(uri)?;
            let port = number(&Value::String(port.to_owned()))?;
            let address = acceptable(host, network, input.allow_loopback)?;
            let export = export_name(export)?;
            Ok(Endpoint {
                address,
                port,
                uri: format!("nbd:{}:{port}:exportname={export}", uri_host(address)),
                export: Some(export.to_owned()),
            })
        }
        (None, None) => Err(EndpointError::NotOne("neither")),
        (Some(_), Some(_)) => Err(EndpointError::NotOne("both")),
    }
}

fn network(text: &str) -> Result<IpNet, EndpointError> {
    match text.split_once('/') {
        Some((address, prefix)) => spec::cidr(address, prefix),
        None => Err("is no CIDR"),
    }
    .map_err(|reason| EndpointError::Network {
        network: scalar::one_line(text),
        reason,
    })
}

/// The parts of `nbd:<host>:<port>:exportname=<name>`, the host as it is written.
fn nbd_parts(uri: &str) -> Result<(IpAddr, &str, &str), EndpointError> {
    let refuse = |reason| EndpointError::NbdUri {
        uri: scalar::shown(uri),
        reason,
    };
    let rest = uri
        .strip_prefix("nbd:")
        .ok_or_else(|| refuse("does not begin with 'nbd:'"))?;
    if rest.starts_with("unix:") {
        return Err(refuse("is a UNIX socket, this plane needs TCP"));
    }
    let before_export = rest.split(":exportname=").next().unwrap_or(rest);
    if before_export
        .rsplit_once(':')
        .is_some_and(|(host, _)| host.parse::<Ipv6Addr>().is_ok())
    {
        return Err(refuse("has IPv6 without brackets"));
    }
    let (address, rest) = if let Some(bracketed) = rest.strip_prefix('[') {
        let (host, rest) = bracketed
            .split_once("]:")
            .ok_or_else(|| refuse("has no ']:' after its IPv6 address"))?;
        (IpAddr::V6(literal_v6(host)?), rest)
    } else {
        let (host, rest) = rest.split_once(':').ok_or_else(|| refuse("has no port"))?;
        (IpAddr::V4(literal_v4(host)?), rest)
    };
    let (port, rest) = rest
        .split_once(':')
        .ok_or_else(|| refuse("has no export name"))?;
    let export = rest
        .strip_prefix("exportname=")
        .ok_or_else(|| refuse("has something else than 'exportname=' after its port"))?;
    Ok((address, port, export))
}

/// The address of a `migrate` answer: stock workers put IPv6 into brackets there.
fn unbracketed(text: &str) -> Result<IpAddr, EndpointError> {
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner
            .strip_suffix(']')
            .ok_or_else(|| malformed(text, "has no closing bracket"))?;
        return literal_v6(inner).map(IpAddr::V6);
    }
    announced::literal(text).map_err(|reason| malformed(text, reason))
}

fn number(port: &Value) -> Result<u16, EndpointError> {
    let refuse = |reason| EndpointError::Port {
        port: match port {
            Value::String(text) => scalar::shown(text),
            other => scalar::one_line(&other.to_string()),
        },
        reason,
    };
    let number = scalar::decimal(port).ok_or_else(|| refuse("it is no decimal number"))?;
    u16::try_from(number)
        .ok()
        .filter(|port| PORTS.contains(port))
        .ok_or_else(|| refuse("it is outside 60000 to 60049"))
}

fn literal_v4(text: &str) -> Result<Ipv4Addr, EndpointError> {
    announced::literal_v4(text).map_err(|reason| malformed(text, reason))
}

fn literal_v6(text: &str) -> Result<Ipv6Addr, EndpointError> {
    announced::literal_v6(text).map_err(|reason| malformed(text, reason))
}

fn malformed(address: &str, reason: &'static str) -> EndpointError {
    EndpointError::Literal {
        address: scalar::shown(address),
        reason,
    }
}

fn acceptable(
    address: IpAddr,
    network: Option<IpNet>,
    allow_loopback: bool,
) -> Result<IpAddr, EndpointError> {
    if let Some(kind) = announced::unfit(address, network.as_ref(), allow_loopback) {
        return Err(EndpointError::Special { address, kind });
    }
    match network {
        Some(network) if !network.contains(&address) => {
            Err(EndpointError::Outside { address, network })
        }
        _ => Ok(address),
    }
}

fn export_name(name: &str) -> Result<&str, EndpointError> {
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let reason = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_EXPORT_LEN {
        "is longer than 64 characters"
    } else if !name.bytes().all(sane) {
        // A colon or comma would add options to what QEMU is told.
        "has characters outside letters, digits, '-', '_' and '.'"
    } else if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        "does not begin with a letter or digit"
    } else {
        return Ok(name);
    };
    Err(EndpointError::Export {
        name: scalar::shown(name),
        reason,
    })
}
