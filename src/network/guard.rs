//! Whether guest data may go to an address in clear text, judged before anything connects there.
//!
//! Clear text is for networks where nobody listens. That a migration network is one, its operator
//! says; that guest data stays inside it, is checked here: the announced address, the way that the
//! kernel would take there, and the address that it would send from. What fails is refused with the
//! way out; what passes comes with a warning that names what travels where.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::choice::MAX_LISTED;
use super::{InterfaceAddress, Lookup, NetworkError, Route, Scope, Spec, announced, scope};
use crate::scalar;

/// What ends most refusals: the last way out is always to encrypt.
const OR_ENCRYPT: &str =
    "for this network in /etc/pve/remote-migration.cfg, or omit migration_type=insecure";

/// What to check.
///
/// As JSON:
/// `{"address":"192.0.2.7","network":"192.0.2.0/24","source_network":null,"public":false,"gateway":false}`.
/// What is left out counts as null or false.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardInput {
    /// Where the target says that it listens: a literal address, IPv6 without brackets.
    pub address: String,
    /// The migration network that the address has to be in: a CIDR, or the name of an interface of
    /// this node. A name that only the target knows is not for here.
    #[serde(default)]
    pub network: Option<String>,
    /// Where this node has to send from: a CIDR that its own address is in, or the name of the
    /// interface that data leaves by.
    #[serde(default)]
    pub source_network: Option<String>,
    /// Accept publicly routable addresses, at either end.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub public: bool,
    /// Accept the default route.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub gateway: bool,
}

/// What may be connected to, and how that would go.
///
/// As JSON:
/// `{"address":"10.0.0.7","source":"10.0.0.1","interface":"eth1","gateway":null,"scope":"private","warnings":["CLEAR TEXT: …"]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardVerdict {
    /// The announced address.
    pub address: IpAddr,
    /// This node's address towards it.
    pub source: IpAddr,
    /// The interface that data leaves by.
    pub interface: String,
    /// The router on the way, null if the address is on the interface's own network.
    pub gateway: Option<IpAddr>,
    /// The range that the announced address is of.
    pub scope: Scope,
    /// Sentences for log and operator, at least one: the first says that guest data travels in clear
    /// text, and where; the others what else is unusual about the way.
    pub warnings: Vec<String>,
}

/// Why nothing may be sent there in clear text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GuardError {
    /// A network of the caller's is malformed.
    #[error("cannot check clear text against the {which}: {cause}")]
    Network {
        /// Which of the two.
        which: &'static str,
        /// What is wrong with it.
        cause: NetworkError,
    },
    /// No literal address, or not in its one spelling.
    #[error("no clear text to {address}, which the target announces: it {reason}")]
    Literal {
        /// What it announced.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An address guest data must not go to.
    #[error(
        "no clear text to {address}: it is {kind}; name a migration network that the target has an address in"
    )]
    Special {
        /// The address.
        address: IpAddr,
        /// What it is.
        kind: &'static str,
    },
    /// The internet may be in between.
    #[error(
        "no clear text to {address}: it is publicly routable; name a migration network of private addresses, set 'public 1' {OR_ENCRYPT}"
    )]
    Public {
        /// The address.
        address: IpAddr,
    },
    /// Not in the migration network.
    #[error(
        "no clear text to {address}: it is outside the migration network {network}; name the network that the target's address is in, or omit migration_type=insecure"
    )]
    Outside {
        /// The address.
        address: IpAddr,
        /// The network.
        network: IpNet,
    },
    /// Not in a network of the interface that is the migration network.
    #[error(
        "no clear text to {address}: it is in no network of this node's interface '{interface}' ({seen}); name the migration network as a CIDR, set 'gateway 1' {OR_ENCRYPT}"
    )]
    OutsideInterface {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
        /// What the interface has.
        seen: String,
    },
    /// No way there, or the kernel cannot be asked.
    #[error("no clear text to the announced address: {0}")]
    Lookup(#[from] NetworkError),
    /// It is this node.
    #[error(
        "no clear text to {address}: it is an address of this node itself; look whether both nodes have it, or the target announces the wrong one"
    )]
    Own {
        /// The address.
        address: IpAddr,
    },
    /// Only the default route leads there.
    #[error(
        "no clear text to {address}: this node would send by its default route {way}; check that the migration network is up on this node, add a route that leads to it, set 'gateway 1' {OR_ENCRYPT}"
    )]
    DefaultRoute {
        /// The address.
        address: IpAddr,
        /// Route, router, interface, source address.
        way: String,
    },
    /// This node's address may be on the internet.
    #[error(
        "no clear text to {address}: this node would send from {source_address} on {interface}, which is publicly routable; name a migration network of private addresses, set 'public 1' {OR_ENCRYPT}"
    )]
    PublicSource {
        /// The announced address.
        address: IpAddr,
        /// The node's own.
        source_address: IpAddr,
        /// The interface.
        interface: String,
    },
    /// Data would leave from elsewhere than the migration network.
    #[error(
        "no clear text to {address}: this node would send {way}, outside its {network}; check that the migration network is up on this node and that the route to {address} leads through it, or omit migration_type=insecure"
    )]
    Source {
        /// The announced address.
        address: IpAddr,
        /// Route, router, interface, source address.
        way: String,
        /// The network that it would have to be.
        network: Spec,
    },
}

/// Checks one announced address, and the way there.
///
/// * The address is literal, and neither unspecified, multicast, broadcast nor one of this node;
///   loopback and link-local IPv4 only for a `network` that is a CIDR inside that range.
/// * It is inside `network`: of a CIDR, or, for an interface, of one of the networks that its
///   addresses are in, which is not asked for with `gateway`. Data leaves by that interface.
/// * This node's address towards it is inside `source_network`, or on that interface.
/// * Neither address is publicly routable, except with `public`.
/// * The route is no default route ([`Route::is_default`]), except with `gateway`. Another route
///   through a router is one that an administrator made: it is taken, with a warning.
///
/// # Errors
/// One reason each, see [`GuardError`], with what the operator can do. What [`Lookup`] says.
pub fn check(input: &GuardInput, lookup: &dyn Lookup) -> Result<GuardVerdict, GuardError> {
    let network = spec("network", input.network.as_deref())?;
    let source_network = spec("source network", input.source_network.as_deref())?;

    let address = announced(&input.address, network.as_ref())?;
    let scope = Scope::of(address);
    if scope == Scope::Global && !input.public {
        return Err(GuardError::Public { address });
    }
    match &network {
        Some(Spec::Cidr(network)) if !network.contains(&address) => {
            return Err(GuardError::Outside {
                address,
                network: *network,
            });
        }
        Some(Spec::Interface(name)) if !input.gateway => {
            on_interface(address, name, &lookup.addresses()?)?;
        }
        _ => {}
    }

    let route = lookup.route(address)?;
    if route.local && scope != Scope::Loopback {
        return Err(GuardError::Own { address });
    }
    if route.is_default() && !input.gateway {
        return Err(GuardError::DefaultRoute {
            address,
            way: way(&route),
        });
    }
    let by_interface = network.filter(|network| network.cidr().is_none());
    for network in [by_interface, source_network].into_iter().flatten() {
        leaves_by(address, &route, network)?;
    }
    if Scope::of(route.source) == Scope::Global && !input.public {
        return Err(GuardError::PublicSource {
            address,
            source_address: route.source,
            interface: route.interface,
        });
    }
    Ok(GuardVerdict {
        address,
        warnings: warnings(address, scope, &route),
        source: route.source,
        interface: route.interface,
        gateway: route.gateway,
        scope,
    })
}

fn spec(which: &'static str, text: Option<&str>) -> Result<Option<Spec>, GuardError> {
    text.map(Spec::parse)
        .transpose()
        .map_err(|cause| GuardError::Network { which, cause })
}

fn announced(text: &str, network: Option<&Spec>) -> Result<IpAddr, GuardError> {
    let address = announced::literal(text).map_err(|reason| GuardError::Literal {
        address: scalar::shown(text),
        reason,
    })?;
    let cidr = network.and_then(Spec::cidr);
    // Who names a network inside the loopback range has both ends on one machine.
    match announced::unfit(address, cidr, scope::is_meant(address, cidr)) {
        Some(kind) => Err(GuardError::Special { address, kind }),
        None => Ok(address),
    }
}

/// The address is in a network that the interface is in.
fn on_interface(
    address: IpAddr,
    name: &str,
    addresses: &[InterfaceAddress],
) -> Result<(), GuardError> {
    let own: Vec<_> = addresses
        .iter()
        .filter(|own| own.interface == name)
        .collect();
    let inside = own.iter().any(|own| {
        let network = IpNet::new(own.address, own.prefix_len);
        own.up && network.is_ok_and(|network| network.contains(&address))
    });
    if inside {
        return Ok(());
    }
    let mut seen: Vec<String> = own
        .iter()
        .take(MAX_LISTED)
        .map(|own| {
            let down = if own.up { "" } else { ", interface is down" };
            format!("{}/{}{down}", own.address, own.prefix_len)
        })
        .collect();
    if seen.is_empty() {
        seen.push("there is none of that name, or it has no address".to_owned());
    }
    Err(GuardError::OutsideInterface {
        address,
        interface: name.to_owned(),
        seen: seen.join(", "),
    })
}

fn leaves_by(address: IpAddr, route: &Route, network: Spec) -> Result<(), GuardError> {
    let inside = match &network {
        Spec::Cidr(cidr) => cidr.contains(&route.source),
        Spec::Interface(name) => *name == route.interface,
    };
    if inside {
        return Ok(());
    }
    Err(GuardError::Source {
        address,
        way: way(route),
        network,
    })
}

/// `through 192.0.2.1 on eth0, from 192.0.2.7 (route 0.0.0.0/0)`.
fn way(route: &Route) -> String {
    let router = match route.gateway {
        Some(gateway) => format!("through {gateway} "),
        None => String::new(),
    };
    format!(
        "{router}on {}, from {} (route {})",
        route.interface, route.source, route.destination
    )
}

fn warnings(address: IpAddr, scope: Scope, route: &Route) -> Vec<String> {
    let mut warnings = vec![format!(
        "CLEAR TEXT: guest RAM and disks travel UNENCRYPTED from {} (interface {}) to {address}: \
         whoever is on the way can read and change them",
        route.source, route.interface
    )];
    if scope == Scope::Global {
        warnings.push(format!("{address} is publicly routable, which was allowed"));
    }
    if Scope::of(route.source) == Scope::Global {
        warnings.push(format!(
            "this node's address {} is publicly routable, which was allowed",
            route.source
        ));
    }
    if route.is_default() {
        warnings.push(format!(
            "{address} is reached by the default route {}, which was allowed",
            way(route)
        ));
    } else if let Some(gateway) = route.gateway {
        warnings.push(format!(
            "{address} is not on a network of this node: the router {gateway} sends it on (route {})",
            route.destination
        ));
    }
    warnings
}
