//! This node's addresses from the kernel (rtnetlink), and names from the system's resolver.

use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NlasIterator, Parseable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkHeader, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{InterfaceAddress, Lookup, NetworkError};
use crate::capability::scalar;

/// The kernel answers from memory; whoever has waited this long waits for nothing.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The kernel fills buffers of at most 32 KiB for a dump.
const BUFFER_LEN: usize = 64 * 1024;

/// Most messages of one dump: more addresses or interfaces than a node can have and still be one.
const MAX_MESSAGES: usize = 65_536;

/// How often a dump is repeated when the tables changed while they were read.
const MAX_ATTEMPTS: usize = 4;

/// `struct ifinfomsg`, and the attribute for the name (`linux/if_link.h`).
const LINK_HEADER_LEN: usize = 16;
const IFLA_IFNAME: u16 = 3;

/// `linux/rtnetlink.h`.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;

/// Kernel and resolver of this machine.
///
/// Addresses are those of the calling thread's network namespace. A signal during
/// [`Lookup::addresses`] ends it with [`NetworkError::Interrupted`], so that `alarm` works in a
/// calling Perl. [`Lookup::resolve`] is the C library's `getaddrinfo`: for a node name, which PVE
/// keeps in `/etc/hosts`, it does not block; a name server is waited for as `resolv.conf` says,
/// whatever signals come.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetworkError> {
        // Links first: an address that appears later may lack its link, which is then not taken for
        // up.
        let links = dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let addresses = dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let links: HashMap<u32, (String, bool)> = links
            .iter()
            .filter(|message| message.kind == RTM_NEWLINK)
            .map(link)
            .collect::<Result<_, _>>()
            .map_err(|error| malformed(&error))?;
        let mut found = Vec::new();
        for message in addresses
            .iter()
            .filter(|message| message.kind == RTM_NEWADDR)
        {
            let message =
                AddressMessage::parse(&message.payload).map_err(|error| malformed(&error))?;
            found.extend(interface_address(&message, &links));
        }
        Ok(found)
    }

    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        let failed = |cause: String| NetworkError::Resolve {
            name: scalar::one_line(name),
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
}

/// A message of the kernel whose attributes are not yet read. Link messages carry dozens that grow
/// with every kernel; two fields of them matter here, and one that the crate cannot read yet must
/// not fail a migration.
struct Unread {
    kind: u16,
    payload: Vec<u8>,
}

impl NetlinkDeserializable for Unread {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            kind: header.message_type,
            payload: payload.to_vec(),
        })
    }
}

fn dump(request: RouteNetlinkMessage) -> Result<Vec<Unread>, NetworkError> {
    let mut packet = NetlinkMessage::from(request);
    packet.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    packet.header.sequence_number = 1;
    packet.finalize();
    let mut request = vec![0; packet.buffer_len()];
    packet.serialize(&mut request);

    let deadline = Instant::now() + TIME_LIMIT;
    for _ in 0..MAX_ATTEMPTS {
        if let Some(messages) = attempt(&request, deadline)? {
            return Ok(messages);
        }
    }
    Err(NetworkError::Addresses {
        cause: "they keep changing while they are read".to_owned(),
    })
}

/// One dump over a socket of its own; `None` if the kernel says that it is not consistent.
fn attempt(request: &[u8], deadline: Instant) -> Result<Option<Vec<Unread>>, NetworkError> {
    let socket = Socket::new(NETLINK_ROUTE)
        .map_err(|error| NetworkError::addresses("netlink socket", &error))?;
    let kernel = SocketAddr::new(0, 0);
    socket
        .send_to(request, &kernel, 0)
        .map_err(|error| NetworkError::addresses("netlink request", &error))?;

    let mut messages = Vec::new();
    let mut consistent = true;
    loop {
        let buffer = receive(&socket, deadline)?;
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<Unread>::deserialize(rest).map_err(|error| malformed(&error))?;
            consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(consistent.then_some(messages)),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(NetworkError::addresses("netlink answer", &error.to_io()));
                }
                NetlinkPayload::InnerMessage(message) => messages.push(message),
                _ => {}
            }
            if messages.len() > MAX_MESSAGES {
                return Err(NetworkError::Addresses {
                    cause: format!("the kernel lists more than {MAX_MESSAGES} entries"),
                });
            }
            // Messages are padded to four bytes (netlink(7), NLMSG_ALIGN).
            rest = rest.get(length.saturating_add(3) & !3..).unwrap_or(&[]);
        }
    }
}

/// The next datagram of the kernel.
fn receive(socket: &Socket, deadline: Instant) -> Result<Vec<u8>, NetworkError> {
    let step = "netlink answer";
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NetworkError::Addresses {
                cause: format!("no {step} within {} s", TIME_LIMIT.as_secs()),
            });
        }
        // With a receive timeout, recv returns on every signal, also under SA_RESTART (signal(7)).
        socket2::SockRef::from(socket)
            .set_read_timeout(Some(left))
            .map_err(|error| NetworkError::addresses(step, &error))?;
        let mut buffer = Vec::with_capacity(BUFFER_LEN);
        match socket.recv_from(&mut buffer, libc::MSG_TRUNC) {
            Ok((length, _)) if length > buffer.len() => {
                return Err(NetworkError::Addresses {
                    cause: format!("{step} of {length} bytes is too long"),
                });
            }
            // Other processes may send to a netlink socket too; the kernel is port 0.
            Ok((_, sender)) if sender.port_number() == 0 => return Ok(buffer),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(NetworkError::addresses(step, &error)),
        }
    }
}

fn link(message: &Unread) -> Result<(u32, (String, bool)), DecodeError> {
    let header = LinkHeader::parse(&message.payload)?;
    let mut name = format!("interface {}", header.index);
    let attributes = message.payload.get(LINK_HEADER_LEN..).unwrap_or(&[]);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == IFLA_IFNAME {
            let bytes = attribute.value();
            let end = bytes
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(bytes.len());
            name = String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned();
        }
    }
    Ok((header.index, (name, header.flags.contains(LinkFlags::Up))))
}

fn interface_address(
    message: &AddressMessage,
    links: &HashMap<u32, (String, bool)>,
) -> Option<InterfaceAddress> {
    let mut own = None;
    let mut other = None;
    // IFA_FLAGS has all flags, the header only the first eight; kernels before 3.14 send only the
    // header's.
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => own = Some(*address),
            AddressAttribute::Address(address) => other = Some(*address),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // On point-to-point links IFA_LOCAL is ours and IFA_ADDRESS the peer's; IPv6 otherwise has only
    // IFA_ADDRESS.
    let address = own.or(other)?;
    let (interface, up) = match links.get(&message.header.index) {
        Some((name, up)) => (name.clone(), *up),
        None => (format!("interface {}", message.header.index), false),
    };
    Some(InterfaceAddress {
        interface,
        address,
        prefix_len: message.header.prefix_len,
        up,
        // One bit with two names: IFA_F_TEMPORARY for IPv6, IFA_F_SECONDARY for IPv4, where it is
        // an ordinary address.
        temporary: address.is_ipv6() && flags.contains(AddressFlags::Secondary),
        deprecated: flags.contains(AddressFlags::Deprecated),
        tentative: flags.contains(AddressFlags::Tentative),
        duplicate: flags.contains(AddressFlags::Dadfailed),
    })
}

fn malformed(error: &DecodeError) -> NetworkError {
    NetworkError::Addresses {
        cause: format!("malformed netlink message: {error}"),
    }
}

#[cfg(test)]
mod tests;
