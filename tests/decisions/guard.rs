//! The guard of clear text: each of its rules, with injected addresses and routes.

use std::net::IpAddr;

use pve_tunnel::network::guard::{GuardInput, check};
use pve_tunnel::network::{InterfaceAddress, Lookup, NetworkError, Route, Scope};
use serde_json::{Value, json};

/// A fake node with these addresses and one route.
struct Node {
    addresses: Vec<InterfaceAddress>,
    route: Option<Route>,
}

impl Lookup for Node {
    fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetworkError> {
        Ok(self.addresses.clone())
    }

    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        panic!("only literal addresses are accepted, and {name} is not one")
    }

    fn route(&self, destination: IpAddr) -> Result<Route, NetworkError> {
        self.route.clone().ok_or_else(|| NetworkError::NoRoute {
            address: destination,
            cause: "network is unreachable".to_owned(),
        })
    }
}

/// Parses `eth1 10.0.0.1/24, eth1 fd00::1/64, …`. `down` may follow an address.
fn addresses(text: &str) -> Vec<InterfaceAddress> {
    let entry = |entry: &str| {
        let words: Vec<&str> = entry.split_whitespace().collect();
        let (address, prefix_len) = words[1].split_once('/').unwrap();
        let mut own = InterfaceAddress::new(
            words[0],
            address.parse().unwrap(),
            prefix_len.parse().unwrap(),
        );
        own.up = words.get(2) != Some(&"down");
        own
    };
    text.split(", ").map(entry).collect()
}

/// Parses the format of `ip route`: `10.0.0.0/24 via 10.0.0.254 dev eth1 src 10.0.0.1`. `local`
/// comes first for an address of this node.
fn route(text: &str) -> Route {
    let mut words = text.split_whitespace().peekable();
    let local = words.next_if_eq(&"local").is_some();
    let mut route = Route {
        destination: words.next().unwrap().parse().unwrap(),
        gateway: None,
        interface: String::new(),
        source: IpAddr::from([0; 4]),
        local,
    };
    while let Some(word) = words.next() {
        let value = words.next().unwrap();
        match word {
            "via" => route.gateway = Some(value.parse().unwrap()),
            "dev" => route.interface = value.to_owned(),
            "src" => route.source = value.parse().unwrap(),
            other => panic!("unknown word {other}"),
        }
    }
    route
}

const OWN: &str = "lo 127.0.0.1/8, eth0 192.168.9.1/24, eth1 10.0.0.1/24, eth1 fd00::1/64, \
                   eth2 172.16.5.1/16 down, wg0 10.99.0.1/32";
const DIRECT: &str = "10.0.0.0/24 dev eth1 src 10.0.0.1";
const DIRECT_V6: &str = "fd00::/64 dev eth1 src fd00::1";
const STATIC: &str = "10.5.0.0/16 via 10.0.0.254 dev eth1 src 10.0.0.1";
const DEFAULT: &str = "0.0.0.0/0 via 192.168.9.254 dev eth0 src 192.168.9.1";
const DEFAULT_V6: &str = "::/0 via fd09::ffff dev eth0 src fd09::1";

/// The verdict as JSON, or the error.
fn verdict_on(input: &Value, path: &str) -> Result<Value, String> {
    let input: GuardInput =
        serde_json::from_value(input.clone()).map_err(|error| error.to_string())?;
    let node = Node {
        addresses: addresses(OWN),
        route: (!path.is_empty()).then(|| route(path)),
    };
    check(&input, &node)
        .map(|verdict| serde_json::to_value(verdict).unwrap())
        .map_err(|error| error.to_string())
}

fn accepted(what: &str, input: &Value, path: &str) -> Value {
    verdict_on(input, path).unwrap_or_else(|error| panic!("{what}: {error}"))
}

fn refused(what: &str, input: &Value, path: &str) -> String {
    match verdict_on(input, path) {
        Ok(verdict) => panic!("{what}: accepted: {verdict}"),
        Err(error) => {
            assert!(!error.contains('\n'), "{what}: {error}");
            error
        }
    }
}

#[test]
fn a_verdict_names_the_path_and_its_first_warning_is_about_clear_text() {
    let input =
        json!({"address": "10.0.0.7", "network": "10.0.0.0/24", "source_network": "10.0.0.0/24"});
    assert_eq!(
        accepted("all of it", &input, DIRECT),
        json!({
            "address": "10.0.0.7",
            "source": "10.0.0.1",
            "interface": "eth1",
            "gateway": null,
            "scope": "private",
            "warnings": ["CLEAR TEXT: guest RAM and disks travel UNENCRYPTED from 10.0.0.1 (interface eth1) \
                          to 10.0.0.7: every host on the path can read and change them"],
        })
    );
    let verdict = accepted(
        "IPv6",
        &json!({"address": "fd00:0::7", "network": "eth1"}),
        DIRECT_V6,
    );
    assert_eq!(verdict["address"], "fd00::7");
    assert_eq!(verdict["scope"], "unique-local");
    assert_eq!(verdict["warnings"].as_array().unwrap().len(), 1);
}

#[test]
fn the_address_has_to_be_inside_the_network() {
    #[rustfmt::skip] // One row a line.
    let inside = [
        ("a CIDR", "10.0.0.7", "10.0.0.0/24", DIRECT),
        ("its first address", "10.0.0.0", "10.0.0.0/24", DIRECT),
        ("its last but one", "10.0.0.254", "10.0.0.0/24", DIRECT),
        ("a CIDR with host bits", "10.0.0.7", "10.0.0.9/24", DIRECT),
        ("a point-to-point CIDR", "10.0.0.3", "10.0.0.2/31", DIRECT),
        ("a CIDR behind a router", "10.5.3.7", "10.5.3.0/24", STATIC),
        ("an IPv6 CIDR", "fd00::7", "fd00::/64", DIRECT_V6),
        ("an interface", "10.0.0.7", "eth1", DIRECT),
        ("an interface with several networks", "fd00::7", "eth1", DIRECT_V6),
    ];
    for (what, address, network, path) in inside {
        accepted(what, &json!({"address": address, "network": network}), path);
    }

    let cidr = "outside the migration network";
    let interface = "is not in a network of this node's interface";
    #[rustfmt::skip] // One row a line.
    let outside = [
        ("below a CIDR", "9.255.255.255", "10.0.0.0/24", "publicly routable"),
        ("below a CIDR, private", "172.16.0.0", "172.16.0.128/25", cidr),
        ("above a CIDR", "10.0.1.0", "10.0.0.0/24", cidr),
        ("the other family", "fd00::7", "10.0.0.0/24", cidr),
        ("the other family, IPv6", "10.0.0.7", "fd00::/64", cidr),
        ("the last address of a CIDR, which is the broadcast address", "10.0.0.255", "10.0.0.0/24", "the broadcast address of the migration network"),
        ("another network than the interface's", "10.0.1.7", "eth1", "'eth1' (10.0.0.1/24, fd00::1/64)"),
        ("another interface's network", "192.168.9.7", "eth1", interface),
        ("the peer of an address without a network", "10.99.0.2", "wg0", "'wg0' (10.99.0.1/32)"),
        ("an interface that is down", "172.16.5.7", "eth2", "172.16.5.1/16, interface is down"),
    ];
    for (what, address, network, expected) in outside {
        let input = json!({"address": address, "network": network});
        let error = refused(what, &input, DIRECT);
        assert!(error.contains(expected), "{what}: {error}");
        assert!(error.contains(address), "{what}: {error}");
    }
    for network in ["network", "source_network"] {
        let input = json!({"address": "10.0.0.7", network: "eth9"});
        let error = refused("an interface that does not exist", &input, DIRECT);
        let expected =
            "there is no interface 'eth9' on this node (interfaces: lo, eth0, eth1, eth2, wg0)";
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_kernel_has_to_send_from_the_source_network() {
    let input = |network: &str| json!({"address": "10.5.0.7", "source_network": network});
    for network in ["10.0.0.0/24", "10.0.0.1/32", "eth1"] {
        accepted(network, &input(network), STATIC);
    }
    let other_route = "10.5.0.0/16 via 192.168.9.254 dev eth0 src 192.168.9.1";
    for network in ["10.0.0.0/24", "eth1", "fd00::/64"] {
        let error = refused(network, &input(network), other_route);
        for part in [
            "through 192.168.9.254 on eth0, from 192.168.9.1 (route 10.5.0.0/16)",
            &format!("outside its migration network '{network}'"),
            "check that the migration network is up",
        ] {
            assert!(error.contains(part), "{network}: {error}");
        }
    }
    // The permission for the default route does not change this.
    let mut input = input("10.0.0.0/24");
    input["gateway"] = json!(true);
    let error = refused("by the default route", &input, DEFAULT);
    assert!(
        error.contains("from 192.168.9.1 (route 0.0.0.0/0)"),
        "{error}"
    );
}

#[test]
fn data_leaves_through_the_interface_that_is_named_as_the_network() {
    // A more specific route through another interface.
    let other_route = "10.0.0.7/32 dev eth0 src 192.168.9.1";
    for gateway in [false, true] {
        let input = json!({"address": "10.0.0.7", "network": "eth1", "gateway": gateway});
        let error = refused("by another", &input, other_route);
        assert!(error.contains("on eth0, from 192.168.9.1"), "{error}");
        assert!(error.contains("'eth1' (an interface)"), "{error}");
    }
    // If a gateway is allowed, the address may be behind a router on that interface.
    let input = json!({"address": "10.5.0.7", "network": "eth1", "gateway": true});
    accepted("behind it", &input, STATIC);
}

#[test]
fn the_default_route_is_refused_unless_the_configuration_allows_it() {
    #[rustfmt::skip] // One row a line.
    let table = [
        ("IPv4", "10.5.0.7", DEFAULT),
        ("IPv6", "fd05::7", DEFAULT_V6),
        ("without a router", "10.5.0.7", "0.0.0.0/0 dev ppp0 src 10.64.0.1"),
        ("the half of one", "10.5.0.7", "0.0.0.0/1 via 192.168.9.254 dev tun0 src 192.168.9.1"),
        ("wider than any migration network", "10.5.0.7", "10.0.0.0/7 via 192.168.9.254 dev eth0 src 192.168.9.1"),
        ("the IPv6 half of one", "fd05::7", "8000::/1 via fd09::ffff dev tun0 src fd09::1"),
    ];
    for (what, address, path) in table {
        for network in [Value::Null, json!(format!("{address}/32"))] {
            let mut input = json!({"address": address, "network": network});
            let error = refused(what, &input, path);
            for part in [
                "would use its default route",
                "'gateway 1'",
                "/etc/pve/remote-migration.cfg",
                "omit migration_type=insecure",
            ] {
                assert!(error.contains(part), "{what}: {error}");
            }
            input["gateway"] = json!(1);
            let verdict = accepted(what, &input, path);
            let warning = verdict["warnings"][1].as_str().unwrap();
            assert!(
                warning.contains("through the default route"),
                "{what}: {warning}"
            );
            assert!(
                warning.contains(&route(path).interface),
                "{what}: {warning}"
            );
        }
    }
    let narrow = "10.0.0.0/8 via 192.168.9.254 dev eth0 src 192.168.9.1";
    accepted(
        "as wide as a migration network",
        &json!({"address": "10.5.0.7"}),
        narrow,
    );
}

#[test]
fn the_router_of_a_static_route_is_named() {
    let verdict = accepted("static", &json!({"address": "10.5.0.7"}), STATIC);
    assert_eq!(verdict["gateway"], "10.0.0.254");
    assert_eq!(
        verdict["warnings"][1],
        "10.5.0.7 is not on a network of this node: the router 10.0.0.254 forwards to it (route 10.5.0.0/16)"
    );
    // Unnumbered BGP configures such routes (RFC 5549).
    let path = "10.5.0.0/16 via fe80::1 dev eth1 src 10.0.0.1";
    assert_eq!(
        accepted("IPv6 router", &json!({"address": "10.5.0.7"}), path)["gateway"],
        "fe80::1"
    );
}

#[test]
fn publicly_routable_addresses_are_refused_unless_the_configuration_allows_them() {
    let path = "11.0.0.0/24 dev eth1 src 10.0.0.1";
    for network in [Value::Null, json!("11.0.0.0/24")] {
        let mut input = json!({"address": "11.0.0.7", "network": network});
        let error = refused("IPv4", &input, path);
        for part in [
            "11.0.0.7 is refused: it is publicly routable",
            "'public 1'",
            "/etc/pve/remote-migration.cfg",
            "omit migration_type=insecure",
        ] {
            assert!(error.contains(part), "{error}");
        }
        input["public"] = json!(true);
        let verdict = accepted("IPv4", &input, path);
        assert_eq!(verdict["scope"], "global");
        assert_eq!(
            verdict["warnings"][1],
            "11.0.0.7 is publicly routable, which the configuration allows"
        );
    }

    // The rule applies to this node's own address as well.
    let path = "10.5.0.0/16 via 11.0.0.254 dev eth3 src 11.0.0.1";
    let mut input = json!({"address": "10.5.0.7"});
    let error = refused("source", &input, path);
    assert!(
        error.contains("from 11.0.0.1 on eth3, which is publicly routable"),
        "{error}"
    );
    assert!(error.contains("'public 1'"), "{error}");
    input["public"] = json!(1);
    let verdict = accepted("source", &input, path);
    assert_eq!(verdict["scope"], "private");
    assert!(
        verdict["warnings"][1]
            .as_str()
            .unwrap()
            .contains("11.0.0.1 is publicly routable")
    );

    // One permission does not include the other.
    let input = json!({"address": "11.0.0.7", "public": true});
    let by_default = "0.0.0.0/0 via 192.168.9.254 dev eth0 src 192.168.9.1";
    assert!(refused("default route", &input, by_default).contains("default route"));
    let input = json!({"address": "11.0.0.7", "gateway": true});
    assert!(refused("public", &input, by_default).contains("publicly routable"));
}

#[test]
fn the_scope_of_both_ends_of_every_range() {
    use Scope::{
        Benchmarking, Documentation, Global, LinkLocal, Loopback, Private, Shared, UniqueLocal,
    };
    #[rustfmt::skip] // The address before the range, its first and last address, the address after it.
    let table = [
        ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0", Private),
        ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0", Private),
        ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0", Private),
        ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0", Shared),
        ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0", LinkLocal),
        ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0", Loopback),
        ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0", Documentation),
        ("198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0", Documentation),
        ("203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0", Documentation),
        ("198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0", Benchmarking),
        ("fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe00::", UniqueLocal),
        ("fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fec0::", LinkLocal),
        ("::", "::1", "::1", "::2", Loopback),
        ("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::", Documentation),
        ("3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::", Documentation),
        ("2001:1:ffff:ffff:ffff:ffff:ffff:ffff", "2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff", "2001:2:1::", Benchmarking),
    ];
    let of = |text: &str| Scope::of(text.parse().unwrap());
    for (before, first, last, after, scope) in table {
        assert_eq!((of(before), of(after)), (Global, Global), "beside {first}");
        assert_eq!((of(first), of(last)), (scope, scope), "{first}");
    }
    for address in [
        "8.8.8.8",
        "192.0.0.8",
        "192.88.99.1",
        "240.0.0.1",
        "2600::1",
        "64:ff9b::a00:7",
        "2002:a00:7::1",
    ] {
        assert_eq!(of(address), Global, "{address}");
    }
}

#[test]
fn the_first_and_last_addresses_of_each_scope_are_accepted_or_refused() {
    #[rustfmt::skip] // The address, and the scope in the verdict or a part of the error.
    let table = [
        ("9.255.255.255", Err("publicly routable")),
        ("10.0.0.0", Ok("private")),
        ("10.255.255.254", Ok("private")),
        ("11.0.0.0", Err("publicly routable")),
        ("172.15.255.255", Err("publicly routable")),
        ("172.16.0.0", Ok("private")),
        ("172.31.255.255", Ok("private")),
        ("172.32.0.0", Err("publicly routable")),
        ("192.168.0.0", Ok("private")),
        ("192.169.0.0", Err("publicly routable")),
        ("100.63.255.255", Err("publicly routable")),
        ("100.64.0.0", Ok("shared")),
        ("100.127.255.255", Ok("shared")),
        ("100.128.0.0", Err("publicly routable")),
        ("192.0.2.7", Ok("documentation")),
        ("198.51.100.7", Ok("documentation")),
        ("203.0.113.7", Ok("documentation")),
        ("198.18.0.7", Ok("benchmarking")),
        ("240.0.0.1", Err("publicly routable")),
        ("fc00::", Ok("unique-local")),
        ("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Ok("unique-local")),
        ("fe00::", Err("publicly routable")),
        ("2001:db8::7", Ok("documentation")),
        ("3fff::7", Ok("documentation")),
        ("2600::7", Err("publicly routable")),
        // IPv6 that embeds a private IPv4 address is not private.
        ("64:ff9b::a00:7", Err("with an IPv4 address inside")),
        ("2002:a00:7::1", Err("with an IPv4 address inside")),
        ("::10.0.0.7", Err("with an IPv4 address inside")),
    ];
    for (address, expected) in table {
        let outcome = verdict_on(&json!({"address": address}), DIRECT);
        match expected {
            Ok(scope) => assert_eq!(outcome.expect(address)["scope"], scope, "{address}"),
            Err(words) => assert!(outcome.expect_err(address).contains(words), "{address}"),
        }
    }
}

#[test]
fn some_addresses_are_refused_with_every_configuration() {
    #[rustfmt::skip] // One row a line.
    let table = [
        ("unspecified", "0.0.0.0", "the unspecified address"),
        ("unspecified IPv6", "::", "the unspecified address"),
        ("this network", "0.1.2.3", "0.0.0.0/8"),
        ("multicast", "224.0.0.1", "a multicast address"),
        ("multicast, last", "239.255.255.255", "a multicast address"),
        ("multicast IPv6", "ff02::1", "a multicast address"),
        ("broadcast", "255.255.255.255", "the broadcast address"),
        ("loopback", "127.0.0.1", "a loopback address"),
        ("loopback IPv6", "::1", "a loopback address"),
        ("link-local", "169.254.9.1", "a link-local address"),
        ("link-local IPv6", "fe80::1", "unusable without a zone"),
        ("empty", "", "it is empty"),
        ("a name", "target.example", "only literal addresses are accepted"),
        ("a short form", "10.7", "four decimal numbers"),
        ("a leading zero", "010.0.0.7", "without leading zeros"),
        ("IPv4 mapped into IPv6", "::ffff:10.0.0.7", "is an IPv4 address written as IPv6"),
        ("a zone", "fe80::1%eth1", "has a zone"),
        ("brackets", "[fd00::7]", "is not an IPv6 address"),
        ("a port", "10.0.0.7:60000", "is not an IPv6 address"),
        ("a newline", "10.0.0.7\n", "only literal addresses are accepted"),
    ];
    for (what, address, expected) in table {
        for allowed in [false, true] {
            let input = json!({"address": address, "public": allowed, "gateway": allowed});
            let error = refused(what, &input, DIRECT);
            assert!(error.contains(expected), "{what}: {error}");
        }
    }
}

#[test]
fn loopback_and_link_local_are_refused_unless_the_network_is_one() {
    let loopback_route = "local 127.0.0.0/8 dev lo src 127.0.0.1";
    let input =
        json!({"address": "127.0.3.1", "network": "127.0.0.0/8", "source_network": "127.0.0.0/8"});
    let verdict = accepted("loopback", &input, loopback_route);
    assert_eq!(
        (&verdict["scope"], &verdict["interface"]),
        (&json!("loopback"), &json!("lo"))
    );
    assert!(
        verdict["warnings"][0]
            .as_str()
            .unwrap()
            .starts_with("CLEAR TEXT")
    );
    accepted(
        "IPv6",
        &json!({"address": "::1", "network": "::1/128"}),
        "local ::1/128 dev lo src ::1",
    );
    accepted(
        "link-local",
        &json!({"address": "169.254.9.1", "network": "169.254.9.0/24"}),
        "169.254.0.0/16 dev eth1 src 169.254.9.2",
    );
    // An interface is not such a network. IPv6 link-local is refused with every network.
    for (address, network) in [
        ("127.0.0.2", "lo"),
        ("169.254.9.1", "eth1"),
        ("fe80::1", "fe80::/64"),
    ] {
        let error = refused(
            network,
            &json!({"address": address, "network": network}),
            loopback_route,
        );
        assert!(
            error.contains("clear text to") && error.contains("is refused"),
            "{error}"
        );
        assert!(
            error.contains("loopback") || error.contains("link-local"),
            "{error}"
        );
    }
}

#[test]
fn an_address_of_this_node_and_an_address_without_a_route_are_refused() {
    let input =
        json!({"address": "10.0.0.1", "network": "10.0.0.0/24", "public": true, "gateway": true});
    let error = refused("own", &input, "local 10.0.0.1/32 dev lo src 10.0.0.1");
    assert!(error.contains("an address of this node itself"), "{error}");
    let error = refused("no route", &json!({"address": "10.0.0.7"}), "");
    assert!(
        error.contains("no route to 10.0.0.7: network is unreachable"),
        "{error}"
    );
    assert!(error.contains("check that its network is up"), "{error}");
}

#[test]
fn malformed_input_is_refused() {
    #[rustfmt::skip] // One row a line.
    let table = [
        ("no address", json!({}), "missing field `address`"),
        ("an unknown key", json!({"address": "10.0.0.7", "netwrok": "10.0.0.0/24"}), "unknown field `netwrok`"),
        ("a boolean in words", json!({"address": "10.0.0.7", "public": "yes"}), "expected a boolean"),
        ("a network without a prefix", json!({"address": "10.0.0.7", "network": "10.0.0.0"}), "the network: migration network '10.0.0.0' is an address"),
        ("an empty network", json!({"address": "10.0.0.7", "network": ""}), "is empty"),
        ("the whole internet", json!({"address": "10.0.0.7", "network": "0.0.0.0/0"}), "is too wide"),
        ("the whole internet to send from", json!({"address": "10.0.0.7", "source_network": "::/0"}), "the source network: migration network '::/0' is too wide"),
    ];
    for (what, input, expected) in table {
        let error = refused(what, &input, DIRECT);
        assert!(error.contains(expected), "{what}: {error}");
    }
}
