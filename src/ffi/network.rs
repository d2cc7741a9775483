//! Addresses, ports, announced endpoints and the guard of clear text, for C.

use std::ffi::{c_char, c_int};
use std::net::IpAddr;
use std::os::fd::IntoRawFd;

use super::error::{Failure, Status};
use super::guard::guard;
use super::input::{self, JSON_MAX, NAME_MAX, Out};
use super::string;
use crate::network::endpoint::{self, EndpointError, EndpointInput};
use crate::network::guard::{GuardError, GuardInput};
use crate::network::{self, NetworkError, SystemLookup};

/// Finds the address of this host that a migration uses.
///
/// `network` is a CIDR such as "10.0.0.0/24" or "2001:db8::/64", an interface name, or NULL for the
/// address that `node_name` resolves to. Only addresses of interfaces that are up count; temporary,
/// deprecated, tentative and duplicate ones do not; there must be exactly one. Reads the kernel's
/// list of addresses; without `network` it asks the system's resolver, which may block.
///
/// `out` gets {"address":"192.0.2.7","prefix_len":24,"interface":"eth1","uri_host":"192.0.2.7"},
/// where `uri_host` has brackets around IPv6 as URIs need them. To be freed with
/// `pve_tunnel_string_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 4096 bytes; INVALID_ARGUMENT if `network` or
/// `node_name` is malformed; REFUSED if no address or more than one is left, with what was seen and
/// why each lost; IO if the kernel or the resolver refused, or a signal handler ran meanwhile (it
/// is not tried again, so that alarm works).
///
/// Threads: any.
///
/// # Safety
///
/// `network` is NULL or a C string, `node_name` is a C string, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_network_address(
    network: *const c_char,
    node_name: *const c_char,
    out: *mut *mut c_char,
) -> i32 {
    guard("pve_tunnel_network_address", || {
        let out = Out::new(out, "out")?;
        // SAFETY: NULL or a C string, as the caller promises.
        let spec = unsafe { input::optional_text(network, "network", NAME_MAX) }?;
        // SAFETY: a C string, as the caller promises.
        let node = unsafe { input::text(node_name, "node_name", NAME_MAX) }?;
        let address = network::address(spec, node, &SystemLookup)
            .map_err(|error| Failure::from_room(network_status(&error), &error))?;
        let answer = string::to_c(input::to_json(&address)?)?;
        // SAFETY: writable, as the caller promises.
        unsafe { out.write(answer.into_raw()) };
        Ok(())
    })
}

/// Binds the first free port of 60000 to 60049 on exactly this address, and listens.
///
/// `address` is a literal IPv4 or IPv6 address of this host. `fd` gets the listening TCP socket,
/// close-on-exec and blocking, which belongs to the caller and is to be closed by the caller;
/// `port` gets its port in host byte order.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 4096 bytes; INVALID_ARGUMENT if `address` is not
/// one literal address; IO if it is not an address of this host or no port is free.
///
/// Threads: any.
///
/// # Safety
///
/// `address` is a C string, `fd` and `port` are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_port_bind(
    address: *const c_char,
    fd: *mut c_int,
    port: *mut u16,
) -> i32 {
    guard("pve_tunnel_port_bind", || {
        let fd = Out::new(fd, "fd")?;
        let port = Out::new(port, "port")?;
        // SAFETY: a C string, as the caller promises.
        let text = unsafe { input::text(address, "address", NAME_MAX) }?;
        let address: IpAddr = text.parse().map_err(|_| {
            Failure::new(
                Status::InvalidArgument,
                format!("{text:?} is not a literal IPv4 or IPv6 address"),
            )
        })?;
        let bound = network::bind_port(address)
            .map_err(|error| Failure::from_room(network_status(&error), &error))?;
        // SAFETY: both writable, as the caller promises.
        unsafe {
            port.write(bound.port);
            fd.write(bound.listener.into_raw_fd());
        }
        Ok(())
    })
}

/// Checks an endpoint that a migration target announced, before anything connects to it. Does no
/// I/O.
///
/// `input` is a JSON object: `migrate` ({"proto":"tcp","addr":"192.0.2.7","port":60000}) or
/// `nbd_uri` ("nbd:192.0.2.7:60001:exportname=drive-scsi0"), exactly one of them; `network`, a CIDR
/// or null; `allow_loopback`, true for tests only.
///
/// `out` gets {"address":"192.0.2.7","port":60000,"uri":"tcp:192.0.2.7:60000"}, for `nbd_uri` with
/// "export":"drive-scsi0". To be freed with `pve_tunnel_string_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `input` is no such
/// object or its `network` no CIDR; REFUSED if the endpoint is not a literal address with a port of
/// 60000 to 60049 inside the network, or is loopback, multicast or unspecified.
///
/// Threads: any.
///
/// # Safety
///
/// `input` is a C string, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_endpoint_check(
    input: *const c_char,
    out: *mut *mut c_char,
) -> i32 {
    guard("pve_tunnel_endpoint_check", || {
        let out = Out::new(out, "out")?;
        // SAFETY: a C string, as the caller promises.
        let text = unsafe { input::text(input, "input", JSON_MAX) }?;
        let announced: EndpointInput = input::json(text, "input")?;
        let accepted = endpoint::check(&announced)
            .map_err(|error| Failure::from_room(endpoint_status(&error), &error))?;
        let answer = string::to_c(input::to_json(&accepted)?)?;
        // SAFETY: writable, as the caller promises.
        unsafe { out.write(answer.into_raw()) };
        Ok(())
    })
}

/// Checks whether guest data may go to an address in clear text, before anything connects to it.
/// Asks the kernel which way it would send; sends nothing.
///
/// `input` is a JSON object:
///
///   address         what the target announced: a literal address, IPv6 without brackets
///   network         null, or where that address has to be: a CIDR, or the name of an interface of this
///                   host, which data then leaves by
///   source_network  null, or where this host has to send from: a CIDR of its own address, or the name
///                   of the interface that data leaves by
///   public          true if the configuration allows publicly routable addresses
///   gateway         true if the configuration allows the default route, and, where `network` is an
///                   interface, addresses outside its networks
///
/// All but `address` may be left out and count as null or false. Other members are an error.
///
/// `out` gets a JSON object, to be freed with `pve_tunnel_string_free`:
///
///   address         the announced address
///   source          this host's address towards it
///   interface       the name of the interface that data leaves by
///   gateway         the router on the way, or null
///   scope           the range of `address`: "private", "unique-local", "shared", "link-local",
///                   "loopback", "documentation", "benchmarking" or "global"
///   warnings        array of sentences for log and operator, at least one: the first says that guest
///                   data travels in clear text, and where
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `input` is no such
/// object, or one of its networks is malformed; REFUSED, with the way out, if the address is not
/// literal, is none of a single other host (loopback passes if `network` is a CIDR inside that range),
/// or outside `network`, if either address is publicly routable, if only the default route leads there,
/// or if this host would send from outside `source_network`; IO if there is no route or the kernel
/// could not be asked, or a signal handler ran meanwhile (it is not tried again, so that alarm works).
///
/// Threads: any.
///
/// # Safety
///
/// `input` is a C string, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_guard_check(
    input: *const c_char,
    out: *mut *mut c_char,
) -> i32 {
    guard("pve_tunnel_guard_check", || {
        let out = Out::new(out, "out")?;
        // SAFETY: a C string, as the caller promises.
        let text = unsafe { input::text(input, "input", JSON_MAX) }?;
        let announced: GuardInput = input::json(text, "input")?;
        let verdict = network::guard::check(&announced, &SystemLookup)
            .map_err(|error| Failure::from_room(guard_status(&error), &error))?;
        let answer = string::to_c(input::to_json(&verdict)?)?;
        // SAFETY: writable, as the caller promises.
        unsafe { out.write(answer.into_raw()) };
        Ok(())
    })
}

pub(super) fn network_status(error: &NetworkError) -> Status {
    match error {
        NetworkError::Spec { .. } | NetworkError::NotExact { .. } => Status::InvalidArgument,
        NetworkError::NoAddress { .. } | NetworkError::SeveralAddresses { .. } => Status::Refused,
        _ => Status::Io,
    }
}

fn endpoint_status(error: &EndpointError) -> Status {
    match error {
        EndpointError::NotOne(_) | EndpointError::Network { .. } => Status::InvalidArgument,
        _ => Status::Refused,
    }
}

fn guard_status(error: &GuardError) -> Status {
    match error {
        GuardError::Network { .. } => Status::InvalidArgument,
        GuardError::Lookup(error) => network_status(error),
        _ => Status::Refused,
    }
}
