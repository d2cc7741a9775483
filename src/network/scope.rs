//! The scope of an address: whether the internet can be between two nodes that use it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The range of an address in IANA's special-purpose registries (RFC 6890).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918).
    Private,
    /// fc00::/7 (RFC 4193).
    UniqueLocal,
    /// 100.64.0.0/10, between a provider and its customers (RFC 6598).
    Shared,
    /// 169.254.0.0/16 (RFC 3927), fe80::/10 (RFC 4291).
    LinkLocal,
    /// 127.0.0.0/8 (RFC 1122), ::1 (RFC 4291).
    Loopback,
    /// 192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24 (RFC 5737), 2001:db8::/32 (RFC 3849),
    /// 3fff::/20 (RFC 9637).
    Documentation,
    /// 198.18.0.0/15 (RFC 2544), 2001:2::/48 (RFC 5180).
    Benchmarking,
    /// All other addresses. An address counts as public unless it is known not to be.
    Global,
}

impl Scope {
    /// The scope of an address. Unspecified, multicast and broadcast addresses are
    /// [`Scope::Global`] here; guest data may not be sent to them in any case.
    pub fn of(address: IpAddr) -> Self {
        range(address).map_or(Self::Global, |(_, scope)| scope)
    }
}

const V4: [(Ipv4Net, Scope); 10] = [
    (v4(10, 0, 0, 8), Scope::Private),
    (v4(172, 16, 0, 12), Scope::Private),
    (v4(192, 168, 0, 16), Scope::Private),
    (v4(100, 64, 0, 10), Scope::Shared),
    (v4(169, 254, 0, 16), Scope::LinkLocal),
    (v4(127, 0, 0, 8), Scope::Loopback),
    (v4(192, 0, 2, 24), Scope::Documentation),
    (v4(198, 51, 100, 24), Scope::Documentation),
    (v4(203, 0, 113, 24), Scope::Documentation),
    (v4(198, 18, 0, 15), Scope::Benchmarking),
];

const V6: [(Ipv6Net, Scope); 6] = [
    (v6(0xfc00, 0, 0, 7), Scope::UniqueLocal),
    (v6(0xfe80, 0, 0, 10), Scope::LinkLocal),
    (
        Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128),
        Scope::Loopback,
    ),
    (v6(0x2001, 0xdb8, 0, 32), Scope::Documentation),
    (v6(0x3fff, 0, 0, 20), Scope::Documentation),
    (v6(0x2001, 2, 0, 48), Scope::Benchmarking),
];

/// `a.b.c.0/prefix`.
const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix)
}

/// `a:b:c::/prefix`.
const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

fn range(address: IpAddr) -> Option<(IpNet, Scope)> {
    match address {
        IpAddr::V4(v4) => V4
            .iter()
            .find(|(range, _)| range.contains(&v4))
            .map(|(range, scope)| (IpNet::V4(*range), *scope)),
        IpAddr::V6(v6) => V6
            .iter()
            .find(|(range, _)| range.contains(&v6))
            .map(|(range, scope)| (IpNet::V6(*range), *scope)),
    }
}

/// Whether the network lies inside the special range of the address. An operator who configures
/// such a network chose that range on purpose. A wider network only contains the range by accident.
pub(super) fn is_inside_range(address: IpAddr, network: Option<&IpNet>) -> bool {
    match (range(address), network) {
        (Some((range, _)), Some(network)) => range.contains(network),
        _ => false,
    }
}
