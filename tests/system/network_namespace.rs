//! Addresses of real interfaces, in a network namespace for this test.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use pve_tunnel::network::{
    InterfaceAddress, Lookup, NetworkError, SystemLookup, address, bind_port,
};
use testing::namespace::{in_namespace, run};

#[test]
fn addresses_of_real_interfaces_are_listed_chosen_and_bound() {
    in_namespace(|| {
        create_interfaces();
        addresses_and_their_flags();
        the_choice_of_an_address();
        ports_on_the_chosen_addresses();
    });
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn own(text: &str) -> Option<InterfaceAddress> {
    let all = SystemLookup.addresses().unwrap();
    all.into_iter().find(|own| own.address == ip(text))
}

/// Creates two pairs of connected interfaces. One interface of the second pair stays down, so the
/// other has no carrier.
fn create_interfaces() {
    run("ip link add mig0 type veth peer name mig1");
    run("ip link add dead0 type veth peer name dead1");
    for interface in ["mig0", "mig1", "dead0"] {
        run(&format!("ip link set {interface} up"));
    }
    run("ip addr add 10.77.0.7/24 dev mig0");
    run("ip addr add 10.78.0.7 peer 10.78.0.9/32 dev mig0");
    run("ip addr add 10.79.0.7/24 dev mig1");
    run("ip addr add 10.79.0.8/24 dev mig1");
    run("ip addr add 10.80.0.7/24 dev dead1");
    run("ip addr add fd77::7/64 dev mig0 nodad");
    run("ip addr add fd77::8/64 dev mig0 nodad preferred_lft 0");
    run("ip addr add fd78::7/64 dev dead0");
}

fn addresses_and_their_flags() {
    let plain = |interface, address, prefix_len| {
        Some(InterfaceAddress::new(interface, ip(address), prefix_len))
    };
    assert_eq!(own("127.0.0.1"), plain("lo", "127.0.0.1", 8));
    assert_eq!(own("::1"), plain("lo", "::1", 128));
    assert_eq!(own("10.77.0.7"), plain("mig0", "10.77.0.7", 24));
    assert_eq!(own("fd77::7"), plain("mig0", "fd77::7", 64));
    // This node's end of a point-to-point address, not the peer's.
    assert_eq!(own("10.78.0.7"), plain("mig0", "10.78.0.7", 32));
    assert_eq!(own("10.78.0.9"), None);
    // A secondary IPv4 address has the same flag as a privacy address, but is not one.
    assert_eq!(own("10.79.0.8"), plain("mig1", "10.79.0.8", 24));
    assert!(!own("10.80.0.7").unwrap().up);
    assert!(own("fd77::8").unwrap().deprecated);
    // Without a carrier, duplicate address detection does not complete.
    let tentative = own("fd78::7").unwrap();
    assert!(tentative.up && tentative.tentative && !tentative.duplicate);

    // The other interface of the pair already has this address and answers duplicate detection.
    run("ip addr add fd79::7/64 dev mig1 nodad");
    run("ip addr add fd79::7/64 dev mig0");
    let deadline = Instant::now() + Duration::from_secs(30);
    let duplicate_found = || {
        let all = SystemLookup.addresses().unwrap();
        all.iter()
            .any(|own| own.interface == "mig0" && own.address == ip("fd79::7") && own.duplicate)
    };
    while !duplicate_found() {
        assert!(
            Instant::now() < deadline,
            "the kernel did not report the duplicate address"
        );
        thread::yield_now();
    }

    if let Err(error) = privacy_address() {
        testing::report_skipped("privacy addresses: cannot switch them on", &error);
    }
}

fn privacy_address() -> io::Result<()> {
    let settings = "/proc/sys/net/ipv6/conf/mig1";
    std::fs::write(format!("{settings}/accept_dad"), "0")?;
    std::fs::write(format!("{settings}/use_tempaddr"), "2")?;
    run("ip addr add fd7a::7/64 dev mig1 mngtmpaddr valid_lft 36000 preferred_lft 18000");
    let of_network = || {
        let all = SystemLookup.addresses().unwrap().into_iter();
        all.filter(|own| own.address.to_string().starts_with("fd7a:"))
            .collect::<Vec<_>>()
    };
    // Without duplicate detection an address is tentative, too, until the kernel has added it.
    let deadline = Instant::now() + Duration::from_secs(30);
    while of_network().iter().any(|own| own.tentative) {
        assert!(Instant::now() < deadline, "an address stays tentative");
        thread::yield_now();
    }
    let (temporary, permanent): (Vec<_>, Vec<_>) =
        of_network().into_iter().partition(|own| own.temporary);
    assert_eq!(temporary.len(), 1, "{temporary:?}");
    assert_eq!(permanent.len(), 1, "{permanent:?}");
    let chosen = address(Some("fd7a::/64"), "node", &SystemLookup).unwrap();
    assert_eq!(chosen.address, ip("fd7a::7"));
    Ok(())
}

fn the_choice_of_an_address() {
    let chosen = |spec| address(Some(spec), "node", &SystemLookup);
    let cidr = chosen("10.77.0.0/24").unwrap();
    assert_eq!(
        (cidr.address, cidr.interface.as_str()),
        (ip("10.77.0.7"), "mig0")
    );
    let cidr = chosen("fd77::/64").unwrap();
    assert_eq!(
        (cidr.address, cidr.uri_host.as_str()),
        (ip("fd77::7"), "[fd77::7]")
    );
    assert_eq!(chosen("127.0.0.0/8").unwrap().address, ip("127.0.0.1"));

    let error = chosen("mig1").unwrap_err();
    assert!(
        matches!(error, NetworkError::SeveralAddresses { .. }),
        "{error}"
    );
    let error = chosen("10.80.0.0/24").unwrap_err().to_string();
    assert!(
        error.contains("10.80.0.7/24 on dead1: interface is down"),
        "{error}"
    );
    let error = chosen("dead0").unwrap_err().to_string();
    assert!(error.contains("fd78::7/64 on dead0: tentative"), "{error}");
    assert!(!error.contains("mig0"), "{error}");

    // `ip` accepts an alternative name wherever it accepts the first one.
    let long = "enp0s31f6-a-name-of-the-third-kind-äö";
    run(&format!("ip link property add dev dead1 altname {long}"));
    run(&format!("ip link set {long} down"));
    let error = chosen(long).unwrap_err().to_string();
    assert!(
        error.contains("10.80.0.7/24 on dead1: interface is down"),
        "{error}"
    );
    let error = chosen("dead7").unwrap_err().to_string();
    assert!(
        error.contains("there is no interface 'dead7' on this node (interfaces: lo, "),
        "{error}"
    );
    assert!(error.contains(&format!("dead1 ({long})")), "{error}");
}

fn ports_on_the_chosen_addresses() {
    for network in ["10.77.0.0/24", "fd77::/64"] {
        let own = address(Some(network), "node", &SystemLookup).unwrap();
        let bound = bind_port(own.address).unwrap();
        assert_eq!(bound.port, 60000);
        TcpStream::connect((own.address, bound.port)).unwrap();
    }
}
