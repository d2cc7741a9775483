//! The kernel's route to an address, requested with `RTM_GETROUTE` (rtnetlink(7)).

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_indextoname;

use super::netlink::{self, NetlinkError, Unparsed};
use crate::network::{NetworkError, PORTS, Route};

/// Size of `struct rtmsg`, a message type, and attributes of routes (`linux/rtnetlink.h`).
const ROUTE_HEADER_LEN: usize = 12;
const RTM_NEWROUTE: u16 = 24;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_VIA: u16 = 18;

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// The route of a TCP connection to this address. It takes three requests:
///
/// 1. for the source address that the connection would have;
/// 2. for the interface and router, with that source address, because policy rules may depend on
///    it. The kernel does the same in `connect`. The answer has one interface and one router, even
///    if the route has several.
/// 3. for the route that this answer comes from.
pub(super) fn route(address: IpAddr) -> Result<Route, NetworkError> {
    let answer = |source, flags| {
        get_route(address, source, flags).map_err(|error| match error {
            NetlinkError::Interrupted => NetworkError::Interrupted,
            NetlinkError::Refused(cause) => no_route(address, refusal(&cause)),
            NetlinkError::Failed(cause) => NetworkError::Route { address, cause },
        })
    };
    let missing = |what: &str| NetworkError::Route {
        address,
        cause: format!("the kernel returned no {what}"),
    };
    let source = answer(None, RouteFlags::empty())?.source;
    let source = source.ok_or_else(|| missing("source address"))?;
    let chosen = answer(Some(source), RouteFlags::empty())?;
    let local = match chosen.kind {
        RouteType::Unicast => false,
        RouteType::Local => true,
        other => return Err(no_route(address, kind(other))),
    };
    let matched = answer(Some(source), RouteFlags::FibMatch)?;

    // A default route has no destination attribute.
    let destination = matched.destination.unwrap_or(match address {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    });
    let index = chosen.interface.ok_or_else(|| missing("interface"))?;
    Ok(Route {
        source,
        interface: interface_name(index).ok_or_else(|| missing("existing interface"))?,
        gateway: chosen.gateway,
        destination: IpNet::new(destination, matched.prefix_len)
            .map_err(|_| missing("valid destination"))?,
        local,
    })
}

/// The name of an interface; none if it no longer exists, which nix reports as an empty name.
fn interface_name(index: u32) -> Option<String> {
    let name = if_indextoname(index).ok()?.to_string_lossy().into_owned();
    (!name.is_empty()).then_some(name)
}

fn no_route(address: IpAddr, cause: String) -> NetworkError {
    NetworkError::NoRoute { address, cause }
}

/// The cause of an error answer. For an IPv4 route that rejects or drops packets, the kernel
/// returns an error that stands for the type of the route.
fn refusal(cause: &io::Error) -> String {
    match cause.raw_os_error() {
        Some(libc::ENETUNREACH) => "network is unreachable".to_owned(),
        Some(libc::EHOSTUNREACH) => kind(RouteType::Unreachable),
        Some(libc::EINVAL) => kind(RouteType::BlackHole),
        Some(libc::EACCES) => kind(RouteType::Prohibit),
        _ => cause.to_string(),
    }
}

fn kind(kind: RouteType) -> String {
    match kind {
        RouteType::Unreachable => "an 'unreachable' route rejects it".to_owned(),
        RouteType::BlackHole => "a 'blackhole' route drops it".to_owned(),
        RouteType::Prohibit => "a 'prohibit' route forbids it".to_owned(),
        RouteType::Broadcast => "it is a broadcast address of this node's network".to_owned(),
        RouteType::Anycast => "it is an anycast address of this node's network".to_owned(),
        RouteType::Multicast => "it is a multicast address".to_owned(),
        other => format!("the kernel's route for it is of type {}", u8::from(other)),
    }
}

/// The parts of an answer that are used.
struct Answer {
    kind: RouteType,
    prefix_len: u8,
    destination: Option<IpAddr>,
    source: Option<IpAddr>,
    interface: Option<u32>,
    gateway: Option<IpAddr>,
}

fn get_route(
    address: IpAddr,
    source: Option<IpAddr>,
    flags: RouteFlags,
) -> Result<Answer, NetlinkError> {
    let (family, prefix_len, destination) = literal(address);
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.destination_prefix_length = prefix_len;
    message.header.flags = flags;
    // Policy rules may depend on protocol and port, so that a rule for the migration ports applies.
    message.attributes = vec![
        RouteAttribute::Destination(destination),
        RouteAttribute::IpProto(TCP),
        RouteAttribute::Dport(*PORTS.start()),
    ];
    if let Some(source) = source {
        let (_, prefix_len, source) = literal(source);
        message.header.source_prefix_length = prefix_len;
        message.attributes.push(RouteAttribute::Source(source));
    }
    let answers = netlink::request(RouteNetlinkMessage::GetRoute(message))?;
    let found = answers.iter().find(|message| message.kind == RTM_NEWROUTE);
    match found {
        Some(message) => Ok(read(message)?),
        None => Err(NetlinkError::Failed("no route in the answer".to_owned())),
    }
}

/// An address as a question has it.
fn literal(address: IpAddr) -> (AddressFamily, u8, RouteAddress) {
    match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
    }
}

/// Parses the attributes, one by one for the reason given at [`Unparsed`].
fn read(message: &Unparsed) -> Result<Answer, DecodeError> {
    let header = RouteHeader::parse(&message.payload)?;
    let mut answer = Answer {
        kind: header.kind,
        prefix_len: header.destination_prefix_length,
        destination: None,
        source: None,
        interface: None,
        gateway: None,
    };
    let attributes = message.payload.get(ROUTE_HEADER_LEN..).unwrap_or(&[]);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            RTA_DST => answer.destination = Some(ip(value)?),
            RTA_PREFSRC => answer.source = Some(ip(value)?),
            RTA_GATEWAY => answer.gateway = Some(ip(value)?),
            // `struct rtvia`: two bytes with the family, then the address.
            RTA_VIA => answer.gateway = Some(ip(value.get(2..).unwrap_or(&[]))?),
            RTA_OIF => answer.interface = Some(index(value)?),
            _ => {}
        }
    }
    Ok(answer)
}

fn ip(bytes: &[u8]) -> Result<IpAddr, DecodeError> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or(v6)
        .map_err(|_| DecodeError::invalid_ip_address(bytes.len()))
}

fn index(bytes: &[u8]) -> Result<u32, DecodeError> {
    bytes
        .try_into()
        .map(u32::from_ne_bytes)
        .map_err(|_| DecodeError::invalid_number(size_of::<u32>(), bytes.len()))
}
