//! Requests to rtnetlink, and its answers before their attributes are parsed.

use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use thiserror::Error;

/// Time limit for one request. The kernel answers from memory, so a longer wait means a defect.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Twice the largest datagram that the kernel sends for a dump (32 KiB).
const BUFFER_LEN: usize = 64 * 1024;

/// Most messages of one dump. No node has as many addresses or interfaces.
const MAX_MESSAGES: usize = 65_536;

/// How often a dump is tried if the tables change while the kernel reads them.
const MAX_ATTEMPTS: usize = 4;

/// Why a request failed.
#[derive(Debug, Error)]
pub(super) enum NetlinkError {
    /// A signal arrived first.
    #[error("interrupted by a signal")]
    Interrupted,
    /// The kernel answered with an error.
    #[error("netlink answer: {0}")]
    Refused(io::Error),
    /// There is no valid answer: the failed step and its cause.
    #[error("{0}")]
    Failed(String),
}

impl NetlinkError {
    fn step(step: &str, cause: &io::Error) -> Self {
        if cause.kind() == io::ErrorKind::Interrupted {
            return Self::Interrupted;
        }
        Self::Failed(format!("{step}: {cause}"))
    }
}

impl From<DecodeError> for NetlinkError {
    fn from(error: DecodeError) -> Self {
        Self::Failed(format!("malformed netlink message: {error}"))
    }
}

/// A message of the kernel whose attributes are not parsed yet.
///
/// Link messages have dozens of attributes, and each kernel version adds some. Only two fields are
/// needed here. An attribute that the crate does not support yet must not fail a migration.
pub(super) struct Unparsed {
    pub(super) kind: u16,
    pub(super) payload: Vec<u8>,
}

impl NetlinkDeserializable for Unparsed {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            kind: header.message_type,
            payload: payload.to_vec(),
        })
    }
}

/// Reads a whole table.
pub(super) fn dump(request: RouteNetlinkMessage) -> Result<Vec<Unparsed>, NetlinkError> {
    exchange(request, NLM_F_DUMP)
}

/// Sends one request that is not a dump. [`NetlinkError::Refused`] if the kernel answers with an
/// error.
pub(super) fn request(request: RouteNetlinkMessage) -> Result<Vec<Unparsed>, NetlinkError> {
    // The acknowledgement marks the end of the answer.
    exchange(request, NLM_F_ACK)
}

fn exchange(request: RouteNetlinkMessage, flags: u16) -> Result<Vec<Unparsed>, NetlinkError> {
    let mut packet = NetlinkMessage::from(request);
    packet.header.flags = NLM_F_REQUEST | flags;
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
    Err(NetlinkError::Failed(
        "the kernel's tables keep changing while they are read".to_owned(),
    ))
}

/// One exchange over a new socket; `None` if the kernel reports that the dump is not consistent.
fn attempt(request: &[u8], deadline: Instant) -> Result<Option<Vec<Unparsed>>, NetlinkError> {
    let socket =
        Socket::new(NETLINK_ROUTE).map_err(|error| NetlinkError::step("netlink socket", &error))?;
    let kernel = SocketAddr::new(0, 0);
    socket
        .send_to(request, &kernel, 0)
        .map_err(|error| NetlinkError::step("netlink request", &error))?;

    let mut messages = Vec::new();
    let mut consistent = true;
    loop {
        let buffer = receive(&socket, deadline)?;
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<Unparsed>::deserialize(rest)?;
            consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(consistent.then_some(messages)),
                // An "error" without a code is the acknowledgement (netlink(7), NLMSG_ERROR).
                NetlinkPayload::Error(error) => match error.code {
                    Some(_) => return Err(NetlinkError::Refused(error.to_io())),
                    None => return Ok(Some(messages)),
                },
                NetlinkPayload::InnerMessage(message) => messages.push(message),
                _ => {}
            }
            if messages.len() > MAX_MESSAGES {
                return Err(NetlinkError::Failed(format!(
                    "the kernel lists more than {MAX_MESSAGES} entries"
                )));
            }
            // Messages are padded to four bytes (netlink(7), NLMSG_ALIGN).
            rest = rest.get(length.saturating_add(3) & !3..).unwrap_or(&[]);
        }
    }
}

/// Receives the next datagram of the kernel.
pub(super) fn receive(socket: &Socket, deadline: Instant) -> Result<Vec<u8>, NetlinkError> {
    let step = "netlink answer";
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NetlinkError::Failed(format!(
                "no {step} within {} s",
                TIME_LIMIT.as_secs()
            )));
        }
        // With a receive timeout, recv returns on every signal, even with SA_RESTART (signal(7)).
        socket2::SockRef::from(socket)
            .set_read_timeout(Some(left))
            .map_err(|error| NetlinkError::step(step, &error))?;
        let mut buffer = Vec::with_capacity(BUFFER_LEN);
        match socket.recv_from(&mut buffer, libc::MSG_TRUNC) {
            Ok((length, _)) if length > buffer.len() => {
                return Err(NetlinkError::Failed(format!(
                    "{step} of {length} bytes is too long"
                )));
            }
            // Other processes may send to a netlink socket too. The kernel has port 0.
            Ok((_, sender)) if sender.port_number() == 0 => return Ok(buffer),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(NetlinkError::step(step, &error)),
        }
    }
}
