//! Addresses and routes of this node from the kernel (rtnetlink), and names from the system's
//! resolver.

mod netlink;
mod route;

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};

use netlink_packet_core::{DecodeError, NlasIterator, Parseable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkHeader, LinkMessage};

use super::{Interface, InterfaceAddress, Lookup, NetworkError, Route};
use crate::scalar;
use netlink::{NetlinkError, Unparsed};

/// Size of `struct ifinfomsg`, and the attributes with the names (`linux/if_link.h`). Kernels before
/// 5.5 have no alternative names.
const LINK_HEADER_LEN: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;

/// The flag of an attribute that contains attributes (`NLA_F_NESTED`, `linux/netlink.h`).
const NESTED: u16 = 1 << 15;

/// Message types (`linux/rtnetlink.h`).
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;

/// Lookups by the kernel and resolver of this machine.
///
/// Addresses and routes are those of the calling thread's network namespace. A signal ends
/// [`Lookup::addresses`] and [`Lookup::route`] with [`NetworkError::Interrupted`], so that `alarm`
/// works in a Perl program. [`Lookup::resolve`] calls the C library's `getaddrinfo`. It does not
/// block for the name of a node, because PVE keeps that in `/etc/hosts`. For other names it waits
/// for the name server as long as `resolv.conf` states, and signals do not end the wait.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetworkError> {
        addresses().map_err(failed)
    }

    fn interfaces(&self) -> Result<Vec<Interface>, NetworkError> {
        let mut links: Vec<(u32, Link)> = links().map_err(failed)?.into_iter().collect();
        links.sort_by_key(|(index, _)| *index);
        Ok(links.into_iter().map(|(_, link)| link.interface).collect())
    }

    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        let failed = |cause: String| NetworkError::Resolve {
            name: scalar::as_given(name),
            cause,
        };
        let resolved = (name, 0)
            .to_socket_addrs()
            .map_err(|error| failed(error.to_string()))?;
        let mut addresses = Vec::new();
        for address in resolved.map(|address| address.ip()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    fn route(&self, destination: IpAddr) -> Result<Route, NetworkError> {
        route::route(destination)
    }
}

fn failed(error: NetlinkError) -> NetworkError {
    match error {
        NetlinkError::Interrupted => NetworkError::Interrupted,
        other => NetworkError::Addresses {
            cause: other.to_string(),
        },
    }
}

/// What is read of a link.
struct Link {
    interface: Interface,
    up: bool,
}

/// The links by index.
fn links() -> Result<HashMap<u32, Link>, NetlinkError> {
    let links = netlink::dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let links = links.iter().filter(|message| message.kind == RTM_NEWLINK);
    Ok(links.map(link).collect::<Result<_, _>>()?)
}

fn addresses() -> Result<Vec<InterfaceAddress>, NetlinkError> {
    // Links are read first. An address whose link was added later then counts as down, not as up.
    let links = links()?;
    let addresses = netlink::dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let mut found = Vec::new();
    for message in addresses
        .iter()
        .filter(|message| message.kind == RTM_NEWADDR)
    {
        let message = AddressMessage::parse(&message.payload)?;
        found.extend(interface_address(&message, &links));
    }
    Ok(found)
}

fn link(message: &Unparsed) -> Result<(u32, Link), DecodeError> {
    let header = LinkHeader::parse(&message.payload)?;
    let mut interface = Interface {
        name: format!("interface {}", header.index),
        alternative_names: Vec::new(),
    };
    let attributes = message.payload.get(LINK_HEADER_LEN..).unwrap_or(&[]);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        match attribute.kind() & !NESTED {
            IFLA_IFNAME => interface.name = text(attribute.value()),
            IFLA_PROP_LIST => {
                for property in NlasIterator::new(attribute.value()) {
                    let property = property?;
                    if property.kind() == IFLA_ALT_IFNAME {
                        interface.alternative_names.push(text(property.value()));
                    }
                }
            }
            _ => {}
        }
    }
    let up = header.flags.contains(LinkFlags::Up);
    Ok((header.index, Link { interface, up }))
}

/// A string with a NUL at its end.
fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}

fn interface_address(
    message: &AddressMessage,
    links: &HashMap<u32, Link>,
) -> Option<InterfaceAddress> {
    let mut own = None;
    let mut other = None;
    // The attribute IFA_FLAGS has all flags, the header has only the first eight. Kernels before
    // 3.14 send no attribute.
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => own = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // On point-to-point links IFA_LOCAL is this node's address and IFA_ADDRESS the peer's. On other
    // links IPv6 has only IFA_ADDRESS.
    let address = own.or(other)?;
    let (interface, up) = match links.get(&message.header.index) {
        Some(link) => (link.interface.name.clone(), link.up),
        None => (format!("interface {}", message.header.index), false),
    };
    Some(InterfaceAddress {
        interface,
        address,
        prefix_len: message.header.prefix_len,
        up,
        // One bit with two meanings: IFA_F_TEMPORARY for IPv6, and IFA_F_SECONDARY for IPv4, where
        // the address is an ordinary one.
        temporary: address.is_ipv6() && flags.contains(AddressFlags::Secondary),
        deprecated: flags.contains(AddressFlags::Deprecated),
        tentative: flags.contains(AddressFlags::Tentative),
        duplicate: flags.contains(AddressFlags::Dadfailed),
    })
}

#[cfg(test)]
mod tests;
