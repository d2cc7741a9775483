//! Ports of the migration range, with real sockets on loopback.

use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use pve_tunnel::network::{NetworkError, PORTS, bind_port};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A loopback address for this process and test only, so that parallel tests do not use the same
/// ports.
fn own_loopback(test: u8) -> IpAddr {
    let process = std::process::id();
    IpAddr::from([127, test, (process >> 8) as u8, process as u8 | 1])
}

#[test]
fn a_port_is_bound_and_listening_on_the_exact_address() {
    let address = own_loopback(101);
    let first = bind_port(address).unwrap();
    let second = bind_port(address).unwrap();
    assert_eq!((first.port, second.port), (60000, 60001));
    let local = first.listener.local_addr().unwrap();
    assert_eq!((local.ip(), local.port()), (address, 60000));
    TcpStream::connect((address, first.port)).unwrap();
    let other = own_loopback(102);
    assert!(TcpStream::connect((other, first.port)).is_err());
    let flags =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", first.listener.as_raw_fd()))
            .unwrap();
    let flags = flags
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .unwrap();
    let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
    assert_ne!(flags & 0o2_000_000, 0, "close-on-exec");
    assert_eq!(flags & 0o4_000, 0, "blocking");
}

#[test]
fn a_port_is_free_again_once_its_connections_have_ended() {
    let address = own_loopback(103);
    let bound = bind_port(address).unwrap();
    let mut client = TcpStream::connect((address, bound.port)).unwrap();
    let (server, _) = bound.listener.accept().unwrap();
    // The end that closes first keeps the port in TIME_WAIT.
    drop(server);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    drop(bound);
    assert_eq!(bind_port(address).unwrap().port, 60000);
}

#[test]
fn a_full_range_names_address_and_range() {
    let address = own_loopback(104);
    let taken: Vec<_> = PORTS
        .map(|port| TcpListener::bind((address, port)).unwrap())
        .collect();
    assert_eq!(taken.len(), 50);
    let error = bind_port(address).unwrap_err();
    assert!(matches!(error, NetworkError::PortsExhausted { .. }));
    let expected = format!("all ports from 60000 to 60049 on {address} are in use");
    assert!(error.to_string().contains(&expected), "{error}");
    // A port that becomes free is found at any position in the range.
    drop(taken.into_iter().nth(37));
    assert!(bind_port(address).is_ok());
}

#[test]
fn other_failures_are_reported_at_once_with_port_and_cause() {
    let error = bind_port(ip("192.0.2.7")).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot listen on 192.0.2.7, port 60000: "),
        "{error}"
    );
    assert!(error.contains("assign requested address"), "{error}");
    for (address, kind) in [
        ("0.0.0.0", "the unspecified address"),
        ("::", "the unspecified address"),
        ("224.0.0.1", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("::ffff:127.0.0.1", "an IPv4 address written as IPv6"),
    ] {
        let error = bind_port(ip(address)).unwrap_err().to_string();
        assert!(error.contains(kind), "{error}");
    }
}

#[test]
fn an_ipv6_port_does_not_accept_ipv4() {
    let bound = match bind_port(IpAddr::V6(Ipv6Addr::LOCALHOST)) {
        Ok(bound) => bound,
        Err(error) if error.to_string().contains("assign requested address") => {
            testing::report_skipped("an IPv6 port: there is no IPv6 loopback address", &error);
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(bound.listener.local_addr().unwrap().is_ipv6());
    let socket = socket2::SockRef::from(&bound.listener);
    assert!(socket.only_v6().unwrap());
    TcpStream::connect((Ipv6Addr::LOCALHOST, bound.port)).unwrap();
}
