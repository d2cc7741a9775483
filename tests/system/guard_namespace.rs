//! The guard of clear text with real routes, in network namespaces of these tests.
//!
//! Nothing is sent: the tests only look up the routes that the kernel would use.

use std::net::{IpAddr, UdpSocket};

use pve_tunnel::network::guard::{GuardInput, GuardVerdict, check};
use pve_tunnel::network::{Lookup, NetworkError, PORTS, SystemLookup};
use serde_json::{Value, json};
use testing::namespace::{add_addresses, in_namespace, run};

/// Configures a node with a migration network (mig0) and a network with the default route (pub0).
/// Their peer interfaces are up as well, because an interface without a carrier has no IPv6 routes.
fn node() {
    for (interface, other) in [("mig0", "mig1"), ("pub0", "pub1")] {
        run(&format!(
            "ip link add {interface} type veth peer name {other}"
        ));
        run(&format!("ip link set {other} up"));
        run(&format!("ip link set {interface} up"));
    }
    add_addresses("mig0", &["10.77.0.7/24", "fd77::7/64"]);
    add_addresses("pub0", &["192.168.9.7/24", "fd09::7/64"]);
    run("ip route add default via 192.168.9.1 dev pub0");
    run("ip -6 route add default via fd09::1 dev pub0");
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn verdict_on(input: Value) -> Result<GuardVerdict, String> {
    let input: GuardInput = serde_json::from_value(input).unwrap();
    check(&input, &SystemLookup).map_err(|error| error.to_string())
}

fn accepted(input: Value) -> GuardVerdict {
    let what = input.to_string();
    let verdict = verdict_on(input).unwrap_or_else(|error| panic!("{what}: {error}"));
    // The source address of the look-up is that of a real socket. UDP connects without sending.
    let unbound = if verdict.address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(unbound).unwrap();
    socket.connect((verdict.address, *PORTS.start())).unwrap();
    assert_eq!(socket.local_addr().unwrap().ip(), verdict.source, "{what}");
    verdict
}

fn refused(input: Value, expected: &[&str]) {
    let what = input.to_string();
    match verdict_on(input) {
        Ok(verdict) => panic!("{what}: accepted: {verdict:?}"),
        Err(error) => {
            for text in expected {
                assert!(error.contains(text), "{what}: {error}");
            }
        }
    }
}

/// For each family: address of the target, migration network, router of the default route, this
/// node's address on the other network.
const FAMILIES: [(&str, &str, &str, &str); 2] = [
    ("10.77.0.9", "10.77.0.0/24", "192.168.9.1", "192.168.9.7"),
    ("fd77::9", "fd77::/64", "fd09::1", "fd09::7"),
];

#[test]
fn with_the_migration_network_down_the_default_route_is_refused() {
    in_namespace(|| {
        node();
        for (address, network, _, _) in FAMILIES {
            let verdict = accepted(
                json!({"address": address, "network": network, "source_network": network}),
            );
            assert_eq!(
                (verdict.interface.as_str(), verdict.gateway),
                ("mig0", None)
            );
            assert!(verdict.source.to_string().ends_with('7') && verdict.warnings.len() == 1);
            accepted(json!({"address": address, "network": "mig0", "source_network": "mig0"}));
        }

        run("ip link set mig0 down");
        for (address, network, router, source) in FAMILIES {
            let path = [router, source, "pub0", "default route"];
            let named = json!({"address": address, "network": network, "source_network": network});
            refused(named.clone(), &path);
            refused(json!({"address": address, "network": network}), &path);
            refused(json!({"address": address}), &path);
            refused(
                json!({"address": address, "network": "mig0"}),
                &["not in a network of this node's interface 'mig0'"],
            );

            // The configuration may allow the gateway. The source network is still required.
            let verdict =
                accepted(json!({"address": address, "network": network, "gateway": true}));
            assert_eq!(verdict.gateway, Some(ip(router)));
            assert_eq!(
                (verdict.interface.as_str(), verdict.source),
                ("pub0", ip(source))
            );
            assert!(
                verdict.warnings[1].contains(router),
                "{:?}",
                verdict.warnings
            );
            let mut both = named;
            both["gateway"] = json!(true);
            refused(both, &[source, "outside its migration network"]);
            refused(
                json!({"address": address, "network": "mig0", "gateway": true}),
                &["on pub0", "'mig0' (an interface)"],
            );
        }
    });
}

#[test]
fn with_the_migration_network_removed_the_default_route_is_refused() {
    in_namespace(|| {
        node();
        run("ip link del mig0");
        for (address, network, router, _) in FAMILIES {
            refused(
                json!({"address": address, "network": network}),
                &[router, "default route"],
            );
            refused(
                json!({"address": address, "network": "mig0"}),
                &["there is no interface 'mig0' on this node (interfaces: lo, "],
            );
        }
        // VPN clients add routes for half of the internet, which override the default route.
        run("ip route add 0.0.0.0/1 via 192.168.9.2 dev pub0");
        run("ip -6 route add 8000::/1 via fd09::2 dev pub0");
        refused(
            json!({"address": "10.77.0.9"}),
            &["192.168.9.2", "default route", "0.0.0.0/1"],
        );
        refused(
            json!({"address": "fd77::9"}),
            &["fd09::2", "default route", "8000::/1"],
        );
        // Two default gateways at once.
        run(
            "ip route replace default nexthop via 192.168.9.3 dev pub0 nexthop via 192.168.9.4 dev pub0",
        );
        run("ip route del 0.0.0.0/1");
        refused(
            json!({"address": "10.77.0.9"}),
            &["through 192.168.9.", "default route", "0.0.0.0/0"],
        );
    });
}

#[test]
fn a_router_of_the_migration_network_is_accepted_and_named() {
    in_namespace(|| {
        node();
        run("ip route add 10.88.0.0/24 via 10.77.0.1 dev mig0");
        run("ip -6 route add fd88::/64 via fd77::1 dev mig0");
        let table = [
            ("10.88.0.9", "10.88.0.0/24", "10.77.0.0/24", "10.77.0.1"),
            ("fd88::9", "fd88::/64", "fd77::/64", "fd77::1"),
        ];
        for (address, network, own, router) in table {
            for source_network in [own, "mig0"] {
                let verdict = accepted(
                    json!({"address": address, "network": network, "source_network": source_network}),
                );
                assert_eq!(verdict.gateway, Some(ip(router)));
                let warning = &verdict.warnings[1];
                assert!(
                    warning.contains(router) && warning.contains(network),
                    "{warning}"
                );
            }
            refused(
                json!({"address": address, "network": "mig0"}),
                &["is not in a network of this node's interface 'mig0'"],
            );
            accepted(json!({"address": address, "network": "mig0", "gateway": true}));
        }

        // An IPv4 network behind an IPv6 router.
        run("ip route add 10.89.0.0/24 via inet6 fd77::1 dev mig0");
        assert_eq!(
            accepted(json!({"address": "10.89.0.9"})).gateway,
            Some(ip("fd77::1"))
        );
    });
}

#[test]
fn a_source_address_of_another_network_is_refused() {
    in_namespace(|| {
        node();
        run("ip route add 10.88.0.0/24 via 192.168.9.2 dev pub0");
        run("ip -6 route add fd88::/64 via fd09::2 dev pub0");
        let table = [
            ("10.88.0.9", "10.77.0.0/24", "192.168.9.7"),
            ("fd88::9", "fd77::/64", "fd09::7"),
        ];
        for (address, own, source) in table {
            accepted(json!({"address": address}));
            for source_network in [own, "mig0"] {
                let words = [source, "on pub0", "outside its migration network"];
                refused(
                    json!({"address": address, "source_network": source_network}),
                    &words,
                );
            }
        }
        // The interface of the migration network, but with an address of another network.
        run("ip addr add 10.79.0.7/24 dev mig0");
        run("ip route add 10.90.0.0/24 dev mig0 src 10.79.0.7");
        accepted(json!({"address": "10.90.0.9", "source_network": "mig0"}));
        refused(
            json!({"address": "10.90.0.9", "source_network": "10.77.0.0/24"}),
            &["10.79.0.7"],
        );
        // A publicly routable source address.
        run("ip addr add 11.0.0.7/24 dev pub0");
        run("ip route add 10.91.0.0/24 dev pub0 src 11.0.0.7");
        refused(
            json!({"address": "10.91.0.9"}),
            &["11.0.0.7", "publicly routable"],
        );
    });
}

#[test]
fn routing_by_port_is_respected() {
    in_namespace(|| {
        node();
        run("ip route add 10.88.0.0/24 via 192.168.9.2 dev pub0");
        run("ip route add 10.88.0.0/24 via 10.77.0.1 dev mig0 table 77");
        run("ip rule add ipproto tcp dport 60000-60049 table 77");
        let input: GuardInput = serde_json::from_value(json!({"address": "10.88.0.9"})).unwrap();
        let verdict = check(&input, &SystemLookup).unwrap();
        assert_eq!(
            (verdict.interface.as_str(), verdict.source),
            ("mig0", ip("10.77.0.7"))
        );
    });
}

/// Nodes with several interfaces often have a routing table for each of their addresses.
/// Destinations without a route in that table use its default gateway.
#[test]
fn routing_by_source_address_is_respected() {
    in_namespace(|| {
        node();
        run("ip rule add from 10.77.0.7 table 78");
        run("ip route add default via 10.77.0.254 dev mig0 table 78");
        run("ip -6 rule add from fd77::7 table 78");
        run("ip -6 route add default via fd77::fe dev mig0 table 78");
        for (address, network, router) in [
            ("10.77.0.9", "10.77.0.0/24", "10.77.0.254"),
            ("fd77::9", "fd77::/64", "fd77::fe"),
        ] {
            let named = json!({"address": address, "network": network, "source_network": network});
            refused(named.clone(), &["default route", router, "on mig0"]);
            let mut allowed = named.clone();
            allowed["gateway"] = json!(true);
            assert_eq!(accepted(allowed).gateway, Some(ip(router)));
            let table = if address.contains(':') { "-6" } else { "-4" };
            run(&format!("ip {table} route add {network} dev mig0 table 78"));
            assert_eq!(accepted(named).gateway, None);
        }
        // The route uses another interface than the one with the source address.
        run("ip route replace 10.77.0.0/24 via 192.168.9.2 dev pub0 table 78");
        refused(
            json!({"address": "10.77.0.9", "network": "10.77.0.0/24", "source_network": "mig0"}),
            &["on pub0", "192.168.9.2"],
        );
    });
}

#[test]
fn an_address_that_cannot_be_reached_is_refused_with_the_reason() {
    in_namespace(|| {
        node();
        for (address, words) in [
            ("10.77.0.7", "an address of this node itself"),
            ("fd77::7", "an address of this node itself"),
            (
                "10.77.0.255",
                "it is a broadcast address of this node's network",
            ),
        ] {
            refused(
                json!({"address": address, "gateway": true, "public": true}),
                &[words],
            );
        }
        for (kind, words) in [
            ("unreachable", "an 'unreachable' route"),
            ("blackhole", "a 'blackhole' route"),
            ("prohibit", "a 'prohibit' route"),
        ] {
            for (family, network, address) in [
                ("-4", "10.88.0.0/24", "10.88.0.9"),
                ("-6", "fd88::/64", "fd88::9"),
            ] {
                run(&format!("ip {family} route add {kind} {network}"));
                refused(
                    json!({"address": address}),
                    &[words, &format!("no route to {address}")],
                );
                run(&format!("ip {family} route del {kind} {network}"));
            }
        }
        run("ip route del default");
        run("ip -6 route del default");
        for address in ["10.88.0.9", "fd88::9"] {
            refused(json!({"address": address}), &["network is unreachable"]);
            let error = SystemLookup.route(ip(address)).unwrap_err();
            assert!(matches!(error, NetworkError::NoRoute { .. }), "{error}");
        }
    });
}

#[test]
fn loopback_is_accepted_if_its_network_is_named() {
    in_namespace(|| {
        let verdict = accepted(
            json!({"address": "127.0.3.1", "network": "127.0.0.0/8", "source_network": "127.0.0.0/8"}),
        );
        assert_eq!(verdict.interface, "lo");
        accepted(json!({"address": "::1", "network": "::1/128", "source_network": "lo"}));
        refused(json!({"address": "127.0.3.1"}), &["a loopback address"]);
    });
}
