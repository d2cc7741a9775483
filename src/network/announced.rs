//! Rules for every address that a target announces.
//!
//! [`endpoint`](super::endpoint) uses them for QEMU's own connections, and [`guard`](super::guard)
//! for every connection in clear text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

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
/// inside that range. IPv6 link-local is never allowed, because it requires a zone. IPv6 with an
/// IPv4 address inside is allowed only if `network` lies inside the range of that form.
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
        (scope, IpAddr::V6(v6)) if scope != Scope::Loopback => embedded_v4(v6, network),
        _ => None,
    }
}

/// Ranges of IPv6 addresses that a tunnel or a translator forwards to the IPv4 address inside: RFC
/// 4291 section 2.5.5.1, RFC 3056, RFC 4380, RFC 6052, RFC 8215, RFC 2765. Such an address would
/// reach a host that checks of the IPv4 address exclude.
const EMBEDDING: [(Ipv6Net, &str); 6] = [
    (
        embedding([0; 6], 96),
        "IPv6 with an IPv4 address inside (IPv4-compatible)",
    ),
    (
        embedding([0x2002, 0, 0, 0, 0, 0], 16),
        "IPv6 with an IPv4 address inside (6to4)",
    ),
    (
        embedding([0x2001, 0, 0, 0, 0, 0], 32),
        "IPv6 with an IPv4 address inside (Teredo)",
    ),
    (
        embedding([0x64, 0xff9b, 0, 0, 0, 0], 96),
        "IPv6 with an IPv4 address inside (NAT64)",
    ),
    (
        embedding([0x64, 0xff9b, 1, 0, 0, 0], 48),
        "IPv6 with an IPv4 address inside (NAT64)",
    ),
    (
        embedding([0, 0, 0, 0, 0xffff, 0], 96),
        "IPv6 with an IPv4 address inside (SIIT)",
    ),
];

/// The network of the first six groups.
const fn embedding([a, b, c, d, e, f]: [u16; 6], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, 0, 0), prefix)
}

/// The form of an IPv6 address with an IPv4 address inside.
fn embedded_v4(address: Ipv6Addr, network: Option<&IpNet>) -> Option<&'static str> {
    // The interface identifier of ISATAP, with either value of its universal bit (RFC 5214, 6.1).
    if let [_, _, _, _, 0 | 0x200, 0x5efe, _, _] = address.segments() {
        return Some("IPv6 with an IPv4 address inside (ISATAP)");
    }
    let (range, form) = EMBEDDING
        .iter()
        .find(|(range, _)| range.contains(&address))?;
    let chosen = matches!(network, Some(IpNet::V6(network)) if range.contains(network));
    (!chosen).then_some(*form)
}

/// The last address of an IPv4 network reaches every node (RFC 919). Networks with a prefix of 31
/// or 32 bits have no such address (RFC 3021).
fn is_broadcast(address: IpAddr, network: &IpNet) -> bool {
    matches!(network, IpNet::V4(v4) if v4.prefix_len() < 31 && IpAddr::V4(v4.broadcast()) == address)
}
