//! Addresses, ports and announced endpoints for C.

use std::ffi::{c_char, c_int};

use super::error::{Failure, Status};
use super::guard::guard;

/// Finds the address of this host that a migration uses.
///
/// `network` is a CIDR such as "10.0.0.0/24" or "2001:db8::/64", an interface name, or NULL for the address that `node_name` resolves
/// to. Only addresses of interfaces that are up count; temporary, deprecated, tentative and duplicate ones do not; there must be
/// exactly one. Reads the kernel's list of addresses; without `network` it asks the system's resolver, which may block.
///
/// `out` gets {"address":"192.0.2.7","prefix_len":24,"interface":"eth1","uri_host":"192.0.2.7"}, where `uri_host` has brackets around
/// IPv6 as URIs need them. To be freed with `pve_tunnel_string_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 4096 bytes; INVALID_ARGUMENT if `network` or `node_name` is malformed; REFUSED if no
/// address or more than one is left, with what was seen and why each lost; IO if the kernel or the resolver refused.
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
        Err(Failure::new(Status::Refused, "not in this build"))
    })
}

/// Binds the first free port of 60000 to 60049 on exactly this address, and listens.
///
/// `address` is a literal IPv4 or IPv6 address of this host. `fd` gets the listening TCP socket, close-on-exec and blocking, which
/// belongs to the caller and is to be closed by the caller; `port` gets its port in host byte order.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 4096 bytes; INVALID_ARGUMENT if `address` is not a literal address; IO if it is not
/// an address of this host or no port is free.
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
        Err(Failure::new(Status::Refused, "not in this build"))
    })
}

/// Checks an endpoint that a migration target announced, before anything connects to it. Does no I/O.
///
/// `input` is a JSON object: `migrate` ({"proto":"tcp","addr":"192.0.2.7","port":60000}) or `nbd_uri`
/// ("nbd:192.0.2.7:60001:exportname=drive-scsi0"), exactly one of them; `network`, a CIDR or null; `allow_loopback`, true for tests only.
///
/// `out` gets {"address":"192.0.2.7","port":60000,"uri":"tcp:192.0.2.7:60000"}, for `nbd_uri` with "export":"drive-scsi0". To be freed
/// with `pve_tunnel_string_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `input` is no such object; REFUSED if the endpoint is not a
/// literal address with a port of 60000 to 60049 inside the network, or is loopback, multicast or unspecified.
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
        Err(Failure::new(Status::Refused, "not in this build"))
    })
}
