//! Checks whether guest data may be sent to an address in clear text, before a connection is
//! opened.
//!
//! Clear text is for networks without eavesdroppers. The operator is responsible for the choice of
//! such a migration network. This check makes sure that guest data stays inside it: it looks at the
//! announced address, the kernel's route to it, and the source address of that route. An error
//! names what the operator can do. A verdict contains a warning that names the data and its path.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::interface::MAX_LISTED;
use super::{
    InterfaceAddress, Lookup, NetworkError, Route, Scope, Spec, announced, interface, scope,
};
use crate::scalar;

/// The end of most errors: encryption is always the last of the possible solutions.
const OR_ENCRYPT: &str =
    "for this network in /etc/pve/remote-migration.cfg, or omit migration_type=insecure";

/// What to check.
///
/// As JSON:
/// `{"address":"192.0.2.7","network":"192.0.2.0/24","source_network":null,"public":false}`. A
/// member that is left out counts as null or false.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardInput {
    /// The address that the target announces: literal, IPv6 without brackets.
    pub address: String,
    /// The migration network that the address must be in: a CIDR, or the name of an interface of
    /// this node. The name of an interface of the target is not valid here.
    #[serde(default)]
    pub network: Option<String>,
    /// The network that this node must send from: a CIDR that contains its own address, or the name
    /// of the outgoing interface.
    #[serde(default)]
    pub source_network: Option<String>,
    /// Accept publicly routable addresses, of the target and of this node.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub public: bool,
    /// Accept the default route, and addresses outside the networks of the interface `network`.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub gateway: bool,
}

/// An address that may be connected to, and the route to it.
///
/// As JSON: `{"address":"10.0.0.7","source":"10.0.0.1","interface":"eth1","gateway":null,`
/// `"scope":"private","warnings":["CLEAR TEXT: …"]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardVerdict {
    /// The announced address.
    pub address: IpAddr,
    /// This node's source address of a connection to it.
    pub source: IpAddr,
    /// Name of the outgoing interface.
    pub interface: String,
    /// The next router, null if the address is on the interface's own network.
    pub gateway: Option<IpAddr>,
    /// The range of the announced address.
    pub scope: Scope,
    /// Sentences for log and operator, at least one. The first states that guest data is sent in
    /// clear text, and where. The others state what else is unusual about the route.
    pub warnings: Vec<String>,
}

/// Why guest data may not be sent to the address in clear text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GuardError {
    /// One of the caller's networks is malformed.
    #[error("cannot check clear text against the {which}: {cause}")]
    Network {
        /// `network` or `source network`.
        which: &'static str,
        /// What is wrong with it.
        cause: NetworkError,
    },
    /// The address is not literal, or not in its usual spelling.
    #[error("clear text to {address}, which the target announces, is refused: it {reason}")]
    Literal {
        /// The announced text, quoted, cut if it is long.
        address: String,
        /// What is wrong with it, as the rest of a sentence.
        reason: &'static str,
    },
    /// Guest data must not be sent to this kind of address.
    #[error(
        "clear text to {address} is refused: it is {kind}; name a migration network that the target has an address in"
    )]
    Special {
        /// The announced address.
        address: IpAddr,
        /// What kind of address it is.
        kind: &'static str,
    },
    /// The internet may be between the nodes.
    #[error(
        "clear text to {address} is refused: it is publicly routable; name a migration network of private addresses, set 'public 1' {OR_ENCRYPT}"
    )]
    Public {
        /// The announced address.
        address: IpAddr,
    },
    /// The address is not in the migration network.
    #[error(
        "clear text to {address} is refused: it is outside the migration network {network}; name the network that the target's address is in, or omit migration_type=insecure"
    )]
    Outside {
        /// The announced address.
        address: IpAddr,
        /// The migration network.
        network: IpNet,
    },
    /// The migration network is an interface, and the address is not in one of its networks.
    #[error(
        "clear text to {address} is refused: it is not in a network of this node's interface '{interface}' ({networks}); name the migration network as a CIDR, set 'gateway 1' {OR_ENCRYPT}"
    )]
    OutsideInterface {
        /// The announced address.
        address: IpAddr,
        /// Name of the interface.
        interface: String,
        /// Addresses and prefixes of the interface.
        networks: String,
    },
    /// There is no route to the address, or the kernel cannot be asked.
    #[error("clear text to the announced address is refused: {0}")]
    Lookup(#[from] NetworkError),
    /// The address belongs to this node.
    #[error(
        "clear text to {address} is refused: it is an address of this node itself; check whether both nodes have this address, or the target announces a wrong one"
    )]
    Own {
        /// The announced address.
        address: IpAddr,
    },
    /// The kernel would use the default route.
    #[error(
        "clear text to {address} is refused: this node would use its default route {path}; check that the migration network is up on this node, add a route that leads to it, set 'gateway 1' {OR_ENCRYPT}"
    )]
    DefaultRoute {
        /// The announced address.
        address: IpAddr,
        /// Router, interface, source address and route.
        path: String,
    },
    /// This node's own address is publicly routable, so the internet may be between the nodes.
    #[error(
        "clear text to {address} is refused: this node would send from {source_address} on {interface}, which is publicly routable; name a migration network of private addresses, set 'public 1' {OR_ENCRYPT}"
    )]
    PublicSource {
        /// The announced address.
        address: IpAddr,
        /// This node's source address.
        source_address: IpAddr,
        /// The outgoing interface.
        interface: String,
    },
    /// The kernel would not send from the migration network.
    #[error(
        "clear text to {address} is refused: this node would send {path}, outside its {network}; check that the migration network is up on this node and that the route to {address} leads through it, or omit migration_type=insecure"
    )]
    Source {
        /// The announced address.
        address: IpAddr,
        /// Router, interface, source address and route.
        path: String,
        /// The network that this node must send from.
        network: Spec,
    },
}

/// Checks one announced address and the route to it.
///
/// * The address is literal. It is not unspecified, multicast or broadcast, and not an address of
///   this node. Loopback and link-local IPv4 are accepted only if `network` is a CIDR inside that
///   range.
/// * The address is inside `network`. If that is an interface, the address is in one of its
///   networks (not checked with `gateway`), and the route uses this interface.
/// * This node's source address is inside `source_network`, or the route uses that interface.
/// * Neither of the two addresses is publicly routable, except with `public`.
/// * The route is not a default route ([`Route::is_default`]), except with `gateway`. Any other
///   route through a router was configured by an administrator: it is accepted, with a warning.
///
/// # Errors
/// The first rule that is broken, with what the operator can do (see [`GuardError`]). The errors of
/// [`Lookup`].
pub fn check(input: &GuardInput, lookup: &dyn Lookup) -> Result<GuardVerdict, GuardError> {
    let network = spec("network", input.network.as_deref())?;
    let source_network = spec("source network", input.source_network.as_deref())?;

    let address = announced(&input.address, network.as_ref())?;
    let scope = Scope::of(address);
    if scope == Scope::Global && !input.public {
        return Err(GuardError::Public { address });
    }
    let first_name = |spec: Option<Spec>| {
        spec.map(|spec| interface::with_first_name(spec, lookup))
            .transpose()
    };
    let network = first_name(network)?;
    let source_network = first_name(source_network)?;
    match &network {
        Some(Spec::Cidr(network)) if !network.contains(&address) => {
            return Err(GuardError::Outside {
                address,
                network: *network,
            });
        }
        Some(Spec::Interface(name)) if !input.gateway => {
            check_interface(address, name, &lookup.addresses()?)?;
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
            path: describe(&route),
        });
    }
    let interface = network.filter(|network| network.cidr().is_none());
    for network in [interface, source_network].into_iter().flatten() {
        check_source(address, &route, network)?;
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
    // With a network inside the loopback range, source and target are on one machine.
    let allow_loopback = scope::is_inside_range(address, cidr);
    match announced::unusable_kind(address, cidr, allow_loopback) {
        Some(kind) => Err(GuardError::Special { address, kind }),
        None => Ok(address),
    }
}

/// Checks that the address is in one of the interface's networks.
fn check_interface(
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
    let mut networks: Vec<String> = own
        .iter()
        .take(MAX_LISTED)
        .map(|own| {
            let down = if own.up { "" } else { ", interface is down" };
            format!("{}/{}{down}", own.address, own.prefix_len)
        })
        .collect();
    if networks.is_empty() {
        networks.push("it has no address".to_owned());
    }
    Err(GuardError::OutsideInterface {
        address,
        interface: name.to_owned(),
        networks: networks.join(", "),
    })
}

/// Checks that the route sends from this network.
fn check_source(address: IpAddr, route: &Route, network: Spec) -> Result<(), GuardError> {
    let inside = match &network {
        Spec::Cidr(cidr) => cidr.contains(&route.source),
        Spec::Interface(name) => *name == route.interface,
    };
    if inside {
        return Ok(());
    }
    Err(GuardError::Source {
        address,
        path: describe(route),
        network,
    })
}

/// `through 192.0.2.1 on eth0, from 192.0.2.7 (route 0.0.0.0/0)`.
fn describe(route: &Route) -> String {
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
         every host on the path can read and change them",
        route.source, route.interface
    )];
    if scope == Scope::Global {
        warnings.push(format!(
            "{address} is publicly routable, which the configuration allows"
        ));
    }
    if Scope::of(route.source) == Scope::Global {
        warnings.push(format!(
            "this node's address {} is publicly routable, which the configuration allows",
            route.source
        ));
    }
    if route.is_default() {
        warnings.push(format!(
            "{address} is reached through the default route ({}), which the configuration allows",
            describe(route)
        ));
    } else if let Some(gateway) = route.gateway {
        warnings.push(format!(
            "{address} is not on a network of this node: the router {gateway} forwards to it (route {})",
            route.destination
        ));
    }
    warnings
}
