//! Choosing this node's address in a migration network.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    InterfaceAddress, Lookup, NetworkError, NodeAddress, Scope, Spec, interface, scope, uri_host,
};
use crate::scalar;
use interface::MAX_LISTED;

/// Chooses this node's addresses, at most one of each family. With `spec`, they are those that match
/// the CIDR or the interface name and whose interface is up. Without `spec`, they are those that the
/// node's name resolves to. They are in the order of the kernel or the resolver.
///
/// These addresses do not count: temporary, deprecated, tentative and duplicate ones; link-local
/// IPv6, which requires a zone that QEMU's URIs cannot contain; loopback and link-local IPv4,
/// unless the network is a CIDR inside these ranges (`127.0.0.0/8` is written on purpose). An
/// address on several interfaces counts once.
///
/// # Errors
/// A malformed `spec`; an interface that does not exist; a name that does not resolve; no address, or
/// several different ones of one family: then the error lists the addresses, their interfaces, and
/// why each was rejected. The errors of [`Lookup`].
pub fn addresses(
    spec: Option<&str>,
    node: &str,
    lookup: &dyn Lookup,
) -> Result<Vec<NodeAddress>, NetworkError> {
    let (first, other) = both(spec, node, lookup)?;
    Ok([first].into_iter().chain(other).collect())
}

/// The first of [`addresses`], for a program that listens on one.
///
/// # Errors
/// As for [`addresses`].
pub fn address(
    spec: Option<&str>,
    node: &str,
    lookup: &dyn Lookup,
) -> Result<NodeAddress, NetworkError> {
    both(spec, node, lookup).map(|(first, _)| first)
}

/// The first address, and that of the other family.
fn both(
    spec: Option<&str>,
    node: &str,
    lookup: &dyn Lookup,
) -> Result<(NodeAddress, Option<NodeAddress>), NetworkError> {
    let (network, candidates) = match spec {
        Some(text) => {
            let spec = Spec::parse(text)?;
            let network = spec.to_string();
            let spec = interface::with_first_name(spec, lookup)?;
            (network, of_network(&spec, lookup)?)
        }
        None => (
            format!("node name '{}'", scalar::as_given(node)),
            of_name(node, lookup)?,
        ),
    };
    choose(network, &candidates)
}

/// An address that was considered.
struct Candidate {
    address: IpAddr,
    /// Its interface, and the length of its prefix there; none if this node does not have the
    /// address.
    interface: Option<(String, u8)>,
    /// Why it does not count; none if it does.
    rejected: Option<&'static str>,
}

impl Candidate {
    fn new(own: &InterfaceAddress, rejected: Option<&'static str>) -> Self {
        Self {
            address: own.address,
            interface: Some((own.interface.clone(), own.prefix_len)),
            rejected,
        }
    }

    fn describe(&self) -> String {
        let interface = match &self.interface {
            Some((name, prefix_len)) => format!("/{prefix_len} on {name}"),
            None => String::new(),
        };
        let verdict = self.rejected.unwrap_or("usable");
        format!("{}{interface}: {verdict}", self.address)
    }
}

fn of_network(spec: &Spec, lookup: &dyn Lookup) -> Result<Vec<Candidate>, NetworkError> {
    let addresses = lookup.addresses()?;
    let candidates = addresses.iter().filter_map(|own| match spec {
        Spec::Cidr(cidr) => {
            let outside = (!cidr.contains(&own.address)).then_some("outside that network");
            let rejected = outside.or_else(|| unusable(own, Some(cidr)));
            Some(Candidate::new(own, rejected))
        }
        Spec::Interface(name) => {
            (own.interface == *name).then(|| Candidate::new(own, unusable(own, None)))
        }
    });
    Ok(candidates.collect())
}

/// The addresses of a name count only if this node has them. An address that it does not have
/// cannot be bound, and an old entry in `/etc/hosts` would cause an error much later.
fn of_name(name: &str, lookup: &dyn Lookup) -> Result<Vec<Candidate>, NetworkError> {
    let resolved = lookup.resolve(name)?;
    let addresses = lookup.addresses()?;
    let mut candidates = Vec::new();
    for address in resolved {
        let before = candidates.len();
        let matching = addresses.iter().filter(|own| own.address == address);
        candidates.extend(matching.map(|own| Candidate::new(own, unusable(own, None))));
        if candidates.len() == before {
            candidates.push(Candidate {
                address,
                interface: None,
                rejected: Some(if address.is_loopback() {
                    "loopback"
                } else {
                    "no interface of this node has it"
                }),
            });
        }
    }
    Ok(candidates)
}

fn unusable(own: &InterfaceAddress, cidr: Option<&IpNet>) -> Option<&'static str> {
    if !own.up {
        return Some("interface is down");
    }
    if own.duplicate {
        return Some("duplicate of another host's address");
    }
    if own.tentative {
        return Some("tentative, duplicate detection is not over");
    }
    if own.deprecated {
        return Some("deprecated");
    }
    if own.temporary {
        return Some("temporary (IPv6 privacy address)");
    }
    special(own.address, cidr)
}

/// Why a whole range does not count, if the address is in one.
fn special(address: IpAddr, cidr: Option<&IpNet>) -> Option<&'static str> {
    match (Scope::of(address), address) {
        (Scope::Loopback, _) => (!scope::is_inside_range(address, cidr)).then_some("loopback"),
        (Scope::LinkLocal, IpAddr::V4(_)) => {
            (!scope::is_inside_range(address, cidr)).then_some("link-local")
        }
        (Scope::LinkLocal, IpAddr::V6(_)) => Some("link-local, unusable without a zone"),
        _ => None,
    }
}

fn choose(
    network: String,
    candidates: &[Candidate],
) -> Result<(NodeAddress, Option<NodeAddress>), NetworkError> {
    let mut usable: Vec<NodeAddress> = Vec::new();
    for candidate in candidates.iter().filter(|c| c.rejected.is_none()) {
        let Some((interface, prefix_len)) = candidate.interface.clone() else {
            continue;
        };
        if usable
            .iter()
            .all(|known| known.address != candidate.address)
        {
            usable.push(NodeAddress {
                address: candidate.address,
                prefix_len,
                interface,
                uri_host: uri_host(candidate.address),
            });
        }
    }
    let found = || describe(candidates);
    let mut usable = usable.into_iter();
    let (first, second, third) = (usable.next(), usable.next(), usable.next());
    let Some(first) = first else {
        let found = found();
        return Err(NetworkError::NoAddress { network, found });
    };
    let same_family = |second: &NodeAddress| second.address.is_ipv4() == first.address.is_ipv4();
    if third.is_some() || second.as_ref().is_some_and(same_family) {
        let found = found();
        return Err(NetworkError::SeveralAddresses { network, found });
    }
    Ok((first, second))
}

/// Lists the usable addresses first, because several usable addresses are the usual cause.
fn describe(candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return "no address was found".to_owned();
    }
    let (usable, rejected): (Vec<_>, Vec<_>) = candidates
        .iter()
        .partition(|candidate| candidate.rejected.is_none());
    let all: Vec<String> = usable
        .into_iter()
        .chain(rejected)
        .map(Candidate::describe)
        .collect();
    let listed = all
        .iter()
        .take(MAX_LISTED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match all.len().saturating_sub(MAX_LISTED) {
        0 => format!("found: {listed}"),
        more => format!("found: {listed}, and {more} more"),
    }
}
