//! An accepted endpoint is a single address of another host, with a port of the range, inside the
//! network or at the address of the API, and its URI consists of the checked parts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::network::endpoint::{EndpointInput, Migrate, check};
use pve_tunnel::network::{PORTS, Spec, uri_host};
use std::net::IpAddr;

fuzz_target!(|input: (
    Option<(String, String, String)>,
    Option<String>,
    Option<String>,
    bool,
    Option<IpAddr>
)| {
    let (migrate, nbd_uri, network, allow_loopback, control) = input;
    let input = EndpointInput {
        migrate: migrate.map(|(proto, addr, port)| Migrate {
            proto,
            addr,
            port: port.into(),
        }),
        nbd_uri,
        network,
        allow_loopback,
        control,
        ..EndpointInput::default()
    };
    let Ok(endpoint) = check(&input) else { return };
    let address = endpoint.address;
    assert!(PORTS.contains(&endpoint.port));
    assert!(!address.is_unspecified() && !address.is_multicast());
    assert!(allow_loopback || !address.is_loopback());
    if let Some(network) = &input.network {
        let Ok(Spec::Cidr(network)) = Spec::parse(network) else {
            panic!("accepted with network {network}")
        };
        assert!(network.contains(&address));
    } else if let Some(control) = control {
        assert_eq!(address, control.to_canonical());
    }
    let host = uri_host(address);
    let expected = match &endpoint.export {
        Some(export) => format!("nbd:{host}:{}:exportname={export}", endpoint.port),
        None => format!("tcp:{host}:{}", endpoint.port),
    };
    assert_eq!(endpoint.uri, expected);
});
