//! Which of this node's addresses a migration network stands for.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{InterfaceAddress, Lookup, NetworkError, NodeAddress, Scope, Spec, scope, uri_host};
use crate::scalar;

/// Most addresses an error lists: a router's tables would drown the message.
pub(super) const MAX_LISTED: usize = 32;

/// Chooses this node's address: with `spec`, the one address of an interface that is up and that
/// the CIDR or interface matches; without, the one that the node's name resolves to.
///
/// Not counted are temporary, deprecated, tentative and duplicate addresses, link-local IPv6 (it
/// means nothing without a zone, which no URI of QEMU carries), and loopback and link-local IPv4
/// unless the network is a CIDR inside these ranges: who writes `127.0.0.0/8` means it. One address
/// on several interfaces counts once.
///
/// # Errors
/// A malformed `spec`; a name that does not resolve; no address, or several different ones: then
/// the error lists what was seen, on which interface, and why each lost. What [`Lookup`] says.
pub fn address(
    spec: Option<&str>,
    node: &str,
    lookup: &dyn Lookup,
) -> Result<NodeAddress, NetworkError> {
    let (network, candidates) = match spec {
        Some(spec) => {
            let spec = Spec::parse(spec)?;
            (spec.to_string(), of_network(&spec, lookup)?)
        }
        None => (
            format!("node name '{}'", scalar::one_line(node)),
            of_name(node, lookup)?,
        ),
    };
    choose(network, &candidates)
}

/// An address that was considered, and why it does not count, if so.
struct Candidate {
    address: IpAddr,
    /// The interface that has it and the prefix there; none if the node has no such address.
    place: Option<(String, u8)>,
    lost: Option<&'static str>,
}

impl Candidate {
    fn new(own: &InterfaceAddress, lost: Option<&'static str>) -> Self {
        Self {
            address: own.address,
            place: Some((own.interface.clone(), own.prefix_len)),
            lost,
        }
    }

    fn describe(&self) -> String {
        let place = match &self.place {
            Some((interface, prefix_len)) => format!("/{prefix_len} on {interface}"),
            None => String::new(),
        };
        let verdict = self.lost.unwrap_or("usable");
        format!("{}{place}: {verdict}", self.address)
    }
}

fn of_network(spec: &Spec, lookup: &dyn Lookup) -> Result<Vec<Candidate>, NetworkError> {
    let addresses = lookup.addresses()?;
    let candidates = addresses.iter().map(|own| {
        let (outside, cidr) = match spec {
            Spec::Cidr(cidr) => (
                (!cidr.contains(&own.address)).then_some("outside that network"),
                Some(cidr),
            ),
            Spec::Interface(name) => (
                (own.interface != *name).then_some("on another interface"),
                None,
            ),
        };
        Candidate::new(own, outside.or_else(|| unusable(own, cidr)))
    });
    Ok(candidates.collect())
}

/// What a name resolves to counts only where the node really has it: elsewhere it could not be
/// bound, and a stale entry in `/etc/hosts` would show much later.
fn of_name(name: &str, lookup: &dyn Lookup) -> Result<Vec<Candidate>, NetworkError> {
    let resolved = lookup.resolve(name)?;
    let addresses = lookup.addresses()?;
    let mut candidates = Vec::new();
    for address in resolved {
        let before = candidates.len();
        let places = addresses.iter().filter(|own| own.address == address);
        candidates.extend(places.map(|own| Candidate::new(own, unusable(own, None))));
        if candidates.len() == before {
            candidates.push(Candidate {
                address,
                place: None,
                lost: Some(if address.is_loopback() {
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

/// Whole ranges that do not count.
fn special(address: IpAddr, cidr: Option<&IpNet>) -> Option<&'static str> {
    match (Scope::of(address), address) {
        (Scope::Loopback, _) => (!scope::is_meant(address, cidr)).then_some("loopback"),
        (Scope::LinkLocal, IpAddr::V4(_)) => {
            (!scope::is_meant(address, cidr)).then_some("link-local")
        }
        (Scope::LinkLocal, IpAddr::V6(_)) => Some("link-local, unusable without a zone"),
        _ => None,
    }
}

fn choose(network: String, candidates: &[Candidate]) -> Result<NodeAddress, NetworkError> {
    let mut usable = candidates
        .iter()
        .filter(|candidate| candidate.lost.is_none());
    let winner = usable
        .next()
        .and_then(|winner| winner.place.clone().map(|place| (winner.address, place)));
    let Some((address, (interface, prefix_len))) = winner else {
        return Err(NetworkError::NoAddress {
            network,
            seen: describe(candidates),
        });
    };
    if usable.any(|other| other.address != address) {
        return Err(NetworkError::SeveralAddresses {
            network,
            seen: describe(candidates),
        });
    }
    Ok(NodeAddress {
        address,
        prefix_len,
        interface,
        uri_host: uri_host(address),
    })
}

/// Usable ones first, since several of them are the usual cause.
fn describe(candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return "there is none".to_owned();
    }
    let (usable, lost): (Vec<_>, Vec<_>) = candidates
        .iter()
        .partition(|candidate| candidate.lost.is_none());
    let all: Vec<String> = usable
        .into_iter()
        .chain(lost)
        .map(Candidate::describe)
        .collect();
    let listed = all
        .iter()
        .take(MAX_LISTED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match all.len().saturating_sub(MAX_LISTED) {
        0 => format!("seen: {listed}"),
        more => format!("seen: {listed}, and {more} more"),
    }
}
