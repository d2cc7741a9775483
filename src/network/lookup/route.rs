//! Which way the kernel would send, asked with `RTM_GETROUTE` (rtnetlink(7)).

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::net::if_::if_indextoname;

use super::netlink::{self, NetlinkError, Unread};
use crate::network::{NetworkError, PORTS, Route};

/// `struct rtmsg`, and attributes of routes (`linux/rtnetlink.h`).
const ROUTE_HEADER_LEN: usize = 12;
const RTM_NEWROUTE: u16 = 24;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_VIA: u16 = 18;

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// Asks three times: for the address that a connection would have; then, as the kernel does in
/// `connect`, with that address, since rules may go by it, for what the connection would get, which is
/// one interface and one router also where a route has several; and for the route that this comes from.
pub(super) fn route(address: IpAddr) -> Result<Route, NetworkError> {
    let answer = |source, flags| {
        ask(address, source, flags).map_err(|error| match error {
            NetlinkError::Interrupted => NetworkError::Interrupted,
            NetlinkError::Refused(cause) => no_route(address, refusal(&cause)),
            NetlinkError::Failed(cause) => NetworkError::Route { address, cause },
        })
    };
    let missing = |what: &str| NetworkError::Route {
        address,
        cause: format!("the kernel names no {what}"),
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

    // No destination stands for all addresses of the family.
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

/// The name of an interface; none if it does not exist any more. nix reports that as an empty name.
fn interface_name(index: u32) -> Option<String> {
    let name = if_indextoname(index).ok()?.to_string_lossy().into_owned();
    (!name.is_empty()).then_some(name)
}

fn no_route(address: IpAddr, cause: String) -> NetworkError {
    NetworkError::NoRoute { address, cause }
}

/// Routes that exist in order to refuse come as errors of their own, IPv4's at least.
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
        RouteType::Unreachable => "an 'unreachable' route refuses it".to_owned(),
        RouteType::BlackHole => "a 'blackhole' route swallows it".to_owned(),
        RouteType::Prohibit => "a 'prohibit' route forbids it".to_owned(),
        RouteType::Broadcast => "it is a broadcast address of this node's network".to_owned(),
        RouteType::Anycast => "it is an anycast address of this node's network".to_owned(),
        RouteType::Multicast => "it is a multicast address".to_owned(),
        other => format!("the kernel's route for it is of type {}", u8::from(other)),
    }
}

/// What matters of one answer.
struct Answer {
    kind: RouteType,
    prefix_len: u8,
    destination: Option<IpAddr>,
    source: Option<IpAddr>,
    interface: Option<u32>,
    gateway: Option<IpAddr>,
}

fn ask(address: IpAddr, source: Option<IpAddr>, flags: RouteFlags) -> Result<Answer, NetlinkError> {
    let (family, prefix_len, destination) = literal(address);
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.destination_prefix_length = prefix_len;
    message.header.flags = flags;
    // Policy routing may depend on protocol and port: a rule for the ports of migrations counts.
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
    let answers = netlink::ask(RouteNetlinkMessage::GetRoute(message))?;
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

/// Read by hand for the reason given at [`Unread`].
fn read(message: &Unread) -> Result<Answer, DecodeError> {
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
            // struct rtvia: the family, then the address.
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
