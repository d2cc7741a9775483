//! Addresses, ports, announced endpoints and the clear-text guard, for C.

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

/// Finds the address of this host for a migration.
///
/// `network` is a CIDR such as "10.0.0.0/24" or "2001:db8::/64", an interface name, or NULL for the
/// address that `node_name` resolves to. Exactly one address must match. Only addresses of
/// interfaces that are up count; temporary, deprecated, tentative and duplicate addresses do not.
/// The function reads the kernel's list of addresses. Without `network` it calls the system's
/// resolver, which may block.
///
/// `out` gets {"address":"192.0.2.7","prefix_len":24,"interface":"eth1","uri_host":"192.0.2.7"}.
/// If an IPv4 and an IPv6 address match, it is the first that the kernel or the resolver lists.
/// `uri_host` has the brackets that URIs require around IPv6. Free it with
/// `pve_tunnel_string_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 4096 bytes; INVALID_ARGUMENT if `network` or
/// `node_name` is malformed; REFUSED if there is no such interface, or if no address or more than one
/// of one family matches, with the addresses that were found and why each was rejected; IO if the
/// kernel or the resolver returns an error, or if a signal handler ran during the call (the call
/// is not restarted, so that alarm works).
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
            .map_err(|error| Failure::from_error(network_status(&error), &error))?;
        let answer = string::to_c(input::to_json(&address)?)?;
        // SAFETY: writable, as the caller promises.
        unsafe { out.write(answer.into_raw()) };
        Ok(())
    })
}

/// Binds the first free port from 60000 to 60049 on exactly this address, and listens on it.
///
/// `address` is a literal IPv4 or IPv6 address of this host. `fd` gets the listening TCP socket,
/// close-on-exec and blocking, which the caller must close. `port` gets its port in host byte
/// order.
///
/// A port that Proxmox VE has reserved on this node is not free. Its lock is waited for, at most 5 s.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 4096 bytes; INVALID_ARGUMENT if `address` is not
/// one literal address; IO if it is not an address of this host, no port is free, or the lock of
/// Proxmox VE's reservations is not available.
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
            .map_err(|error| Failure::from_error(network_status(&error), &error))?;
        // SAFETY: both writable, as the caller promises.
        unsafe {
            port.write(bound.port);
            fd.write(bound.listener.into_raw_fd());
        }
        Ok(())
    })
}

/// Checks an endpoint that a migration target announces, before a connection to it. Does no I/O.
///
/// `input` is a JSON object:
///
///   migrate         {"proto":"tcp","addr":"192.0.2.7","port":60000}
///   nbd_uri         "nbd:192.0.2.7:60001:exportname=drive-scsi0"
///   network         the migration network: a CIDR, or null
///   control         without a network: the address at which the target's API was reached, the
///                   only one that is accepted; or null: any address, which the caller must check
///   remote          for the message of such a refusal: the host of the target's API, or null
///   configured      for the same message: the ID of the network configured for it, or null
///   allow_loopback  true: accept loopback addresses, for tests only
///
/// It has exactly one of `migrate` and `nbd_uri`.
///
/// `out` gets {"address":"192.0.2.7","port":60000,"uri":"tcp:192.0.2.7:60000"}, and for `nbd_uri`
/// also "export":"drive-scsi0". Free it with `pve_tunnel_string_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `input` is not such an
/// object, or its `network` is not a CIDR; REFUSED if the address is not literal, is outside the
/// network or not `control`, is loopback, multicast or unspecified, or is IPv6 with an IPv4 address
/// inside, or if the port is not 60000 to 60049.
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
            .map_err(|error| Failure::from_error(endpoint_status(&error), &error))?;
        let answer = string::to_c(input::to_json(&accepted)?)?;
        // SAFETY: writable, as the caller promises.
        unsafe { out.write(answer.into_raw()) };
        Ok(())
    })
}

/// Checks whether guest data may be sent to an address in clear text, before a connection to it.
/// Asks the kernel for its route. Sends nothing to the address.
///
/// `input` is a JSON object:
///
///   address         the announced address: literal, IPv6 without brackets
///   network         network that the address must be in: a CIDR, an interface of this host (which
///                   is then also the outgoing interface), or null
///   source_network  network that this host must send from: a CIDR that contains its own address,
///                   the outgoing interface, or null
///   public          true if the configuration allows publicly routable addresses
///   gateway         true if the configuration allows the default route and, if `network` is an
///                   interface, addresses outside its networks
///
/// Members other than `address` may be left out, and then count as null or false. Unknown members
/// are an error.
///
/// `out` gets a JSON object, which is freed with `pve_tunnel_string_free`:
///
///   address         the announced address
///   source          this host's source address of a connection to it
///   interface       name of the outgoing interface
///   gateway         the next router, or null
///   scope           the range of `address`: "private", "unique-local", "shared", "link-local",
///                   "loopback", "documentation", "benchmarking" or "global"
///   warnings        array of sentences for log and operator, at least one; the first states that
///                   guest data is sent in clear text, and where
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `input` is not such an
/// object, or one of its networks is malformed; IO if there is no route, the kernel cannot be
/// asked, or a signal handler ran during the call (the call is not restarted, so that alarm works);
/// REFUSED in these cases, with possible solutions in the message:
///
///   - The address is not literal.
///   - It is not the address of a single other host. Loopback is accepted if `network` is a CIDR
///     inside that range.
///   - It is outside `network`.
///   - It, or this host's own address, is publicly routable.
///   - Only the default route leads to it.
///   - This host would send from outside `source_network`.
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
            .map_err(|error| Failure::from_error(guard_status(&error), &error))?;
        let answer = string::to_c(input::to_json(&verdict)?)?;
        // SAFETY: writable, as the caller promises.
        unsafe { out.write(answer.into_raw()) };
        Ok(())
    })
}

pub(super) fn network_status(error: &NetworkError) -> Status {
    match error {
        NetworkError::Spec { .. } | NetworkError::NotExact { .. } => Status::InvalidArgument,
        NetworkError::NoAddress { .. }
        | NetworkError::NoInterface { .. }
        | NetworkError::SeveralAddresses { .. } => Status::Refused,
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
