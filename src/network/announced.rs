//! Rules for every address that a target announces.
//!
//! [`endpoint`](super::endpoint) uses them for QEMU's own connections, and [`guard`](super::guard)
//! for every connection in clear text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{Scope, scope};

/// Reads a literal address, IPv6 without brackets. The address that is checked must be the address
/// that is dialled, so names, zones, short forms, leading zeros and IPv4 inside IPv6 are rejected.
///
/// The error is what is wrong with the address, as the rest of a sentence.
pub(super) fn literal(text: &str) -> Result<IpAddr, &'static str> {
    if text.contains(':') {
        literal_v6(text).map(IpAddr::V6)
    } else {
        literal_v4(text).map(IpAddr::V4)
    }
}

/// As [`literal`], IPv4 only.
pub(super) fn literal_v4(text: &str) -> Result<Ipv4Addr, &'static str> {
    text.parse().map_err(|_| {
        let numeric = |byte: u8| byte.is_ascii_digit() || byte == b'.';
        if text.is_empty() {
            "is empty"
        } else if text.bytes().all(numeric) {
            // inet_aton would read 10.1 as 10.0.0.1 and 010 as 8.
            "is not an IPv4 address of four decimal numbers without leading zeros"
        } else {
            "is a name or malformed; only literal addresses are accepted"
        }
    })
}

/// As [`literal`], IPv6 only.
pub(super) fn literal_v6(text: &str) -> Result<Ipv6Addr, &'static str> {
    if text.contains('%') {
        return Err("has a zone, which has no meaning on another node");
    }
    let address: Ipv6Addr = text.parse().map_err(|_| "is not an IPv6 address")?;
    if address.to_ipv4_mapped().is_some() {
        return Err("is an IPv4 address written as IPv6");
    }
    Ok(address)
}

/// The kind of the address, if guest data must not be sent to it in any network: unspecified,
/// multicast, broadcast, loopback unless that is allowed, and link-local unless `network` lies
/// inside that range. IPv6 link-local is never allowed, because it requires a zone.
pub(super) fn unusable_kind(
    address: IpAddr,
    network: Option<&IpNet>,
    allow_loopback: bool,
) -> Option<&'static str> {
    match (Scope::of(address), address) {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_multicast() => Some("a multicast address"),
        (_, IpAddr::V4(v4)) if v4.is_broadcast() => Some("the broadcast address"),
        (_, IpAddr::V4(v4)) if v4.octets()[0] == 0 => {
            Some("an address of 'this network', 0.0.0.0/8")
        }
        (Scope::Loopback, _) if !allow_loopback => {
            Some("a loopback address, where this node would connect to itself")
        }
        (Scope::LinkLocal, IpAddr::V4(_)) if !scope::is_inside_range(address, network) => {
            Some("a link-local address")
        }
        (Scope::LinkLocal, IpAddr::V6(_)) => Some("a link-local address, unusable without a zone"),
        _ if network.is_some_and(|network| is_broadcast(address, network)) => {
            Some("the broadcast address of the migration network")
        }
        _ => None,
    }
}

/// The last address of an IPv4 network reaches every node (RFC 919). Networks with a prefix of 31
/// or 32 bits have no such address (RFC 3021).
fn is_broadcast(address: IpAddr, network: &IpNet) -> bool {
    matches!(network, IpNet::V4(v4) if v4.prefix_len() < 31 && IpAddr::V4(v4.broadcast()) == address)
}
