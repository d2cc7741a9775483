//! Checks of the endpoints that a target announces for the `qemu` plane, before QEMU connects.
//!
//! The target belongs to another administration. The endpoint that it announces decides where guest
//! RAM and disks are sent in clear text. So only literal addresses in their usual spelling are
//! accepted, and only inside the network and port range that the source expects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::{PORTS, announced, spec, uri_host};
use crate::scalar;

/// Longest export name, in characters. QEMU's own names are `drive-` and the name of a drive.
const MAX_EXPORT_LEN: usize = 64;

/// What to check: exactly one of `migrate` and `nbd_uri`.
///
/// As JSON: `{"migrate":{"proto":"tcp","addr":"192.0.2.7","port":60000},"network":"192.0.2.0/24"}`
/// or
/// `{"nbd_uri":"nbd:192.0.2.7:60001:exportname=drive-scsi0","network":null,"allow_loopback":false}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointInput {
    /// Where QEMU listens for the RAM stream.
    #[serde(default)]
    pub migrate: Option<Migrate>,
    /// Where QEMU serves a disk: `nbd:<IPv4 or [IPv6]>:<port>:exportname=<name>`.
    #[serde(default)]
    pub nbd_uri: Option<String>,
    /// The migration network as CIDR, null if none is given. A caller with an interface name passes
    /// the CIDR of the source's own address on it, because the name has no meaning on the target.
    #[serde(default)]
    pub network: Option<String>,
    /// The address at which the target's API was reached. Without a network it is the only address
    /// that is accepted. Null: every address is accepted, and the caller has to check it.
    #[serde(default)]
    pub control: Option<IpAddr>,
    /// The host of the target's API as the caller names it, for the message of such a refusal.
    #[serde(default)]
    pub remote: Option<String>,
    /// The ID of the network that is configured for this remote, for the same message.
    #[serde(default)]
    pub configured: Option<String>,
    /// Accept loopback addresses, for source and target on one machine.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub allow_loopback: bool,
}

/// The `migrate` member of the worker's answer. Other keys (`unix_sockets`) belong to other planes
/// and are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migrate {
    /// Must be `tcp`.
    pub proto: String,
    /// A literal address, IPv6 with or without brackets.
    pub addr: String,
    /// A number or a decimal string.
    pub port: Value,
}

/// An endpoint that QEMU may connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Inside the network, if one was given.
    pub address: IpAddr,
    /// One of [`PORTS`].
    pub port: u16,
    /// `tcp:<host>:<port>` or `nbd:<host>:<port>:exportname=<name>`, built from the checked parts.
    pub uri: String,
    /// The name of the export, for NBD only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<String>,
}

/// Why an announced endpoint is rejected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// Neither or both of `migrate` and `nbd_uri`.
    #[error("an endpoint is either 'migrate' or 'nbd_uri', got {0}")]
    NotOne(&'static str),
    /// The caller's own network is malformed.
    #[error("cannot check an endpoint against network '{network}': it {reason}")]
    Network {
        /// The text, cut if it is long.
        network: String,
        /// What is wrong with it, as the rest of a sentence.
        reason: String,
    },
    /// A protocol other than TCP.
    #[error("the target announces protocol {0}, expected 'tcp'")]
    Protocol(String),
    /// The URI does not have the form `nbd:<address>:<port>:exportname=<name>`.
    #[error("the target announces NBD at {uri}: it {reason}")]
    NbdUri {
        /// The announced text, quoted, cut if it is long.
        uri: String,
        /// What is wrong with it, as the rest of a sentence.
        reason: &'static str,
    },
    /// The address is not literal, or not in its usual spelling.
    #[error("the target announces address {address}: it {reason}")]
    Literal {
        /// The announced text, quoted, cut if it is long.
        address: String,
        /// What is wrong with it, as the rest of a sentence.
        reason: &'static str,
    },
    /// The port is not a decimal number.
    #[error("the target announces port {0}: it is not a decimal number")]
    PortNotDecimal(String),
    /// The port is not one of [`PORTS`].
    #[error(
        "the target announces port {0}: it is outside {first} to {last}",
        first = PORTS.start(),
        last = PORTS.end()
    )]
    PortOutside(String),
    /// Guest data must not be sent to this kind of address.
    #[error("the target announces address {address}: it is {kind}")]
    Special {
        /// The announced address.
        address: IpAddr,
        /// What kind of address it is.
        kind: &'static str,
    },
    /// The address is not in the migration network.
    #[error(
        "the target announces address {address}: it is outside the migration network {network}"
    )]
    Outside {
        /// The announced address.
        address: IpAddr,
        /// The network that the source expects.
        network: IpNet,
    },
    /// No network is given, and the target's API was reached at another address.
    #[error(
        "the target announces address {address}, but its API was reached at {control}, and no network of this node permits another address: {solution}"
    )]
    NotReached {
        /// The announced address.
        address: IpAddr,
        /// The address of the target's API.
        control: IpAddr,
        /// What to configure.
        solution: String,
    },
    /// The name cannot be the name of a drive's export.
    #[error("the target announces NBD export {name}: it {reason}")]
    Export {
        /// The announced name, quoted, cut if it is long.
        name: String,
        /// What is wrong with it, as the rest of a sentence.
        reason: String,
    },
}

/// Checks one announced endpoint.
///
/// * The address is literal, in its usual spelling: no name, zone, short form, leading zero, or
///   IPv4 inside IPv6.
/// * It is not unspecified, multicast, broadcast or link-local, and loopback only if that is
///   allowed. IPv4 link-local is accepted if `network` lies inside that range.
/// * It is inside `network`, if one is given. Otherwise it is `control`, the address at which the
///   target's API was reached: without a network of the source's operator, a target must not be able
///   to direct connections of the source to other hosts.
/// * The port is one of [`PORTS`].
/// * The export name consists of letters, digits, `-`, `_` and `.`.
///
/// # Errors
/// The first rule that the endpoint breaks.
pub fn check(input: &EndpointInput) -> Result<Endpoint, EndpointError> {
    let network = input.network.as_deref().map(network).transpose()?;
    match (&input.migrate, &input.nbd_uri) {
        (Some(migrate), None) => {
            if migrate.proto != "tcp" {
                return Err(EndpointError::Protocol(scalar::shown(&migrate.proto)));
            }
            let port = number(&migrate.port)?;
            let literal = unbracketed(&migrate.addr)?;
            let address = acceptable(literal, network, input)?;
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
            let address = acceptable(host, network, input)?;
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
        None => Err("is not a CIDR".to_owned()),
    }
    .map_err(|reason| EndpointError::Network {
        network: scalar::as_given(text),
        reason,
    })
}

/// Splits `nbd:<host>:<port>:exportname=<name>` into address, port and export name.
fn nbd_parts(uri: &str) -> Result<(IpAddr, &str, &str), EndpointError> {
    let refuse = |reason| EndpointError::NbdUri {
        uri: scalar::shown(uri),
        reason,
    };
    let rest = uri
        .strip_prefix("nbd:")
        .ok_or_else(|| refuse("does not begin with 'nbd:'"))?;
    if rest.starts_with("unix:") {
        return Err(refuse("is a UNIX socket; this plane requires TCP"));
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
        .ok_or_else(|| refuse("has something other than 'exportname=' after its port"))?;
    Ok((address, port, export))
}

/// Reads the address of a `migrate` answer, where stock workers put IPv6 into brackets.
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
    let announced = || match port {
        Value::String(text) => scalar::shown(text),
        other => scalar::one_line(&other.to_string()),
    };
    let number = scalar::decimal(port).ok_or_else(|| EndpointError::PortNotDecimal(announced()))?;
    u16::try_from(number)
        .ok()
        .filter(|port| PORTS.contains(port))
        .ok_or_else(|| EndpointError::PortOutside(announced()))
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
    input: &EndpointInput,
) -> Result<IpAddr, EndpointError> {
    if let Some(kind) = announced::unusable_kind(address, network.as_ref(), input.allow_loopback) {
        return Err(EndpointError::Special { address, kind });
    }
    // A socket for both families has the IPv4 address of its peer as IPv6.
    let control = input.control.map(|control| control.to_canonical());
    match (network, control) {
        (Some(network), _) if !network.contains(&address) => {
            Err(EndpointError::Outside { address, network })
        }
        (None, Some(control)) if control != address => Err(EndpointError::NotReached {
            address,
            control,
            solution: solution(address, control, input),
        }),
        _ => Ok(address),
    }
}

/// What an operator who trusts the address has to configure.
fn solution(address: IpAddr, control: IpAddr, input: &EndpointInput) -> String {
    let file = "/etc/pve/remote-migration.cfg";
    let network = IpNet::from(address);
    match (&input.configured, &input.remote) {
        (Some(id), _) => format!(
            "if the address is right, add the line ' target {network}', or a network around it, to the section 'network: {}' of {file} on this node",
            scalar::as_given(id)
        ),
        (None, remote) => {
            let remote = match remote {
                Some(remote) => scalar::as_given(remote),
                None => control.to_string(),
            };
            format!(
                "if the address is right, add the section 'network: other-cluster' with the lines ' remote {remote}' and ' target {network}', or a network around it, to {file} on this node"
            )
        }
    }
}

fn export_name(name: &str) -> Result<&str, EndpointError> {
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let reason = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > MAX_EXPORT_LEN {
        format!("is longer than {MAX_EXPORT_LEN} characters")
    } else if !name.bytes().all(sane) {
        // A colon or comma would add options to the URI that QEMU gets.
        "has characters other than letters, digits, '-', '_' and '.'".to_owned()
    } else if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        "does not begin with a letter or digit".to_owned()
    } else {
        return Ok(name);
    };
    Err(EndpointError::Export {
        name: scalar::shown(name),
        reason,
    })
}
