//! The choice of this node's address in a migration network, with injected addresses.

use std::net::IpAddr;

use pve_tunnel::network::{
    InterfaceAddress, Lookup, NetworkError, NodeAddress, Route, Spec, SystemLookup, address,
    uri_host,
};

/// A fake node with these addresses and resolvable names.
struct Table {
    addresses: Vec<InterfaceAddress>,
    names: Vec<(&'static str, Vec<IpAddr>)>,
}

impl Lookup for Table {
    fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetworkError> {
        Ok(self.addresses.clone())
    }

    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        let found = self.names.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, addresses)| addresses.clone())
            .ok_or_else(|| NetworkError::Resolve {
                name: name.to_owned(),
                cause: "unknown here".to_owned(),
            })
    }

    fn route(&self, destination: IpAddr) -> Result<Route, NetworkError> {
        panic!("the choice of an address requested the route to {destination}")
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Parses lines of the form `interface address/prefix flags…`.
fn node(lines: &[&str]) -> Table {
    let addresses = lines.iter().map(|line| {
        let mut words = line.split_whitespace();
        let interface = words.next().unwrap();
        let (address, prefix_len) = words.next().unwrap().split_once('/').unwrap();
        let mut own = InterfaceAddress::new(interface, ip(address), prefix_len.parse().unwrap());
        for flag in words {
            match flag {
                "down" => own.up = false,
                "temporary" => own.temporary = true,
                "deprecated" => own.deprecated = true,
                "tentative" => own.tentative = true,
                "duplicate" => own.duplicate = true,
                other => panic!("unknown flag {other}"),
            }
        }
        own
    });
    Table {
        addresses: addresses.collect(),
        names: Vec::new(),
    }
}

fn named(name: &'static str, resolved: &[&str], lines: &[&str]) -> Table {
    let mut table = node(lines);
    let resolved = resolved.iter().map(|text| ip(text)).collect();
    table.names.push((name, resolved));
    table
}

const USUAL: &[&str] = &[
    "lo 127.0.0.1/8",
    "lo ::1/128",
    "vmbr0 192.0.2.7/24",
    "vmbr0 2001:db8::7/64",
    "vmbr0 fe80::7/64",
    "eth1 10.0.0.7/24",
];

/// Name of the row, network, addresses of the node, expected address, prefix and interface.
type Chosen<'a> = (&'a str, &'a str, &'a [&'a str], &'a str, u8, &'a str);

#[test]
fn the_one_matching_address_is_chosen() {
    #[rustfmt::skip] // One row a line.
    let table: &[Chosen] = &[
        ("IPv4 CIDR", "10.0.0.0/24", USUAL, "10.0.0.7", 24, "eth1"),
        ("host bits are ignored", "10.0.0.99/24", USUAL, "10.0.0.7", 24, "eth1"),
        ("a wider CIDR than the interface's", "10.0.0.0/8", USUAL, "10.0.0.7", 24, "eth1"),
        ("a single address", "10.0.0.7/32", USUAL, "10.0.0.7", 24, "eth1"),
        ("IPv6 CIDR", "2001:db8::/32", USUAL, "2001:db8::7", 64, "vmbr0"),
        ("interface name", "eth1", USUAL, "10.0.0.7", 24, "eth1"),
        ("interface with IPv6 and its link-local address", "eth2", &["eth2 fd00::7/64", "eth2 fe80::7/64"], "fd00::7",
            64, "eth2"),
        ("privacy, deprecated, tentative and duplicate addresses are ignored", "fd00::/16",
            &["eth2 fd00::1/64 temporary", "eth2 fd00::2/64 deprecated", "eth2 fd00::3/64 tentative",
            "eth2 fd00::4/64 duplicate", "eth2 fd00::7/64", "eth2 fd00::5/64 temporary deprecated"], "fd00::7", 64, "eth2"),
        ("an interface that is down is ignored", "10.0.0.0/24", &["eth1 10.0.0.6/24 down", "eth2 10.0.0.7/24"],
            "10.0.0.7", 24, "eth2"),
        ("the same address twice counts once", "10.0.0.0/24", &["eth1 10.0.0.7/24", "eth2 10.0.0.7/32"], "10.0.0.7", 24, "eth1"),
        ("the same address once down and once up", "10.0.0.0/24", &["eth1 10.0.0.7/24 down", "eth2 10.0.0.7/32"],
            "10.0.0.7", 32, "eth2"),
        ("a routed address on the loopback interface is not a loopback address", "lo",
            &["lo 127.0.0.1/8", "lo ::1/128", "lo 10.255.0.7/32"], "10.255.0.7", 32, "lo"),
        ("loopback by CIDR", "127.0.0.0/8", USUAL, "127.0.0.1", 8, "lo"),
        ("a part of loopback", "127.0.0.1/32", USUAL, "127.0.0.1", 8, "lo"),
        ("IPv6 loopback by CIDR", "::1/128", USUAL, "::1", 128, "lo"),
        ("link-local IPv4 by CIDR", "169.254.0.0/16", &["en5 169.254.3.1/16"], "169.254.3.1", 16, "en5"),
        ("link-local IPv4 beside a real address", "eth1", &["eth1 169.254.3.1/16", "eth1 10.0.0.7/24"], "10.0.0.7", 24, "eth1"),
        ("an interface with the longest name", "enp0s31f6.40961", &["enp0s31f6.40961 10.0.0.7/24"], "10.0.0.7", 24,
            "enp0s31f6.40961"),
    ];
    for (name, spec, lines, expected, prefix_len, interface) in table {
        let chosen = address(Some(spec), "node", &node(lines));
        let expected = NodeAddress {
            address: ip(expected),
            prefix_len: *prefix_len,
            interface: (*interface).to_owned(),
            uri_host: uri_host(ip(expected)),
        };
        assert_eq!(chosen, Ok(expected), "{name}");
    }
}

#[test]
fn without_a_network_the_address_of_the_node_name_is_chosen() {
    #[rustfmt::skip] // One row a line.
    let table: &[(&str, &[&str], &[&str], &str)] = &[
        ("as installed", &["192.0.2.7"], USUAL, "192.0.2.7"),
        ("loopback first, as Debian writes it", &["127.0.0.1", "192.0.2.7"], USUAL, "192.0.2.7"),
        ("the same address twice", &["192.0.2.7", "192.0.2.7"], USUAL, "192.0.2.7"),
        ("IPv6 with loopback", &["::1", "2001:db8::7"], USUAL, "2001:db8::7"),
        ("with its link-local address", &["fe80::7", "2001:db8::7"], USUAL, "2001:db8::7"),
        ("with an address of another node", &["192.0.2.7", "192.0.2.8"], USUAL, "192.0.2.7"),
    ];
    for (name, resolved, lines, expected) in table {
        let chosen = address(None, "pve1", &named("pve1", resolved, lines));
        assert_eq!(
            chosen.map(|chosen| chosen.address),
            Ok(ip(expected)),
            "{name}"
        );
    }
}

/// Name of the row, network, addresses of the node, texts in the error.
type Refused<'a> = (&'a str, &'a str, &'a [&'a str], &'a [&'a str]);

#[test]
fn an_error_lists_every_address_and_why_it_is_not_usable() {
    let flags: &[&str] = &[
        "eth1 10.0.0.1/24 down",
        "eth2 fd00::1/64 temporary",
        "eth2 fd00::2/64 deprecated",
        "eth2 fd00::3/64 tentative",
        "eth2 fd00::4/64 duplicate",
        "eth2 fe80::4/64",
    ];
    #[rustfmt::skip] // One row a line.
    let table: &[Refused] = &[
        ("nothing inside", "10.9.0.0/24", USUAL, &["migration network '10.9.0.0/24': no usable address",
            "10.0.0.7/24 on eth1: outside that network", "2001:db8::7/64 on vmbr0: outside that network"]),
        ("down", "10.0.0.0/24", flags, &["10.0.0.1/24 on eth1: interface is down"]),
        ("all reasons of IPv6", "eth2", flags, &["migration network 'eth2' (an interface): no usable address",
            "fd00::1/64 on eth2: temporary", "fd00::2/64 on eth2: deprecated",
            "fd00::3/64 on eth2: tentative", "fd00::4/64 on eth2: duplicate", "fe80::4/64 on eth2: link-local"]),
        ("link-local IPv6 even by CIDR", "fe80::/10", flags, &["fe80::4/64 on eth2: link-local"]),
        ("the loopback interface does not include loopback addresses", "lo", USUAL, &["127.0.0.1/8 on lo: loopback", "::1/128 on lo: loopback"]),
        ("a wider network does not include loopback addresses", "::/8", &["lo ::1/128"], &["::1/128 on lo: loopback"]),
        ("a wider network does not include link-local addresses", "169.0.0.0/8", &["en5 169.254.3.1/16"],
            &["169.254.3.1/16 on en5: link-local"]),
        ("no addresses at all", "10.0.0.0/24", &[], &["'10.0.0.0/24'", "no address was found"]),
    ];
    for (name, spec, lines, expected) in table {
        let error = address(Some(spec), "node", &node(lines)).expect_err(name);
        assert!(
            matches!(error, NetworkError::NoAddress { .. }),
            "{name}: {error}"
        );
        for words in *expected {
            assert!(
                error.to_string().contains(words),
                "{name}: {words}: {error}"
            );
        }
    }
}

#[test]
fn several_usable_addresses_are_an_error_that_lists_them() {
    #[rustfmt::skip] // One row a line.
    let table: &[Refused] = &[
        ("two on one interface", "10.0.0.0/24", &["eth1 10.0.0.7/24", "eth1 10.0.0.8/24", "eth2 10.1.0.1/24"],
            &["migration network '10.0.0.0/24': more than one", "10.0.0.7/24 on eth1: usable, 10.0.0.8/24 on eth1: usable",
            "10.1.0.1/24 on eth2: outside that network", "name a CIDR that contains only one of them"]),
        ("two of one family beside one of the other", "eth1", &["eth1 fd00::7/64", "eth1 10.0.0.7/24", "eth1 10.0.0.8/24"],
            &["'eth1'", "10.0.0.7/24 on eth1: usable", "10.0.0.8/24 on eth1: usable", "fd00::7/64 on eth1: usable"]),
        ("two networks inside a wide one", "10.0.0.0/8", &["eth1 10.0.0.7/24", "eth2 10.1.0.7/24"],
            &["on eth1: usable", "on eth2: usable"]),
    ];
    for (name, spec, lines, expected) in table {
        let error = address(Some(spec), "node", &node(lines)).expect_err(name);
        assert!(
            matches!(error, NetworkError::SeveralAddresses { .. }),
            "{name}: {error}"
        );
        for words in *expected {
            assert!(
                error.to_string().contains(words),
                "{name}: {words}: {error}"
            );
        }
    }
}

#[test]
fn the_first_of_two_families_is_the_address_of_a_connection_without_a_listener() {
    let by_interface = address(Some("vmbr0"), "node", &node(USUAL)).unwrap();
    assert_eq!(by_interface.address, ip("192.0.2.7"));
    let table = named("pve1", &["2001:db8::7", "192.0.2.7"], USUAL);
    let by_name = address(None, "pve1", &table).unwrap();
    assert_eq!(by_name.address, ip("2001:db8::7"));
}

#[test]
fn an_interface_that_does_not_exist_is_reported_with_those_that_do() {
    for spec in ["eth", "dc2", "a-name-of-thirty-three-characters"] {
        let error = address(Some(spec), "node", &node(USUAL))
            .unwrap_err()
            .to_string();
        let expected =
            format!("there is no interface '{spec}' on this node (interfaces: lo, vmbr0, eth1)");
        assert!(error.contains(&expected), "{error}");
        assert!(!error.contains("another interface"), "{error}");
    }
    let lines: Vec<String> = (0..200)
        .map(|n| format!("tap{n}i0 10.1.0.{n}/24"))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let error = address(Some("eth9"), "node", &node(&lines))
        .unwrap_err()
        .to_string();
    assert!(error.contains("tap31i0, and 168 more)"), "{error}");
}

#[test]
fn a_message_shows_a_network_as_it_was_given() {
    for (given, shown) in [
        ("10.0.0.0/24 ", "'10.0.0.0/24 '"),
        (" eth1", "' eth1'"),
        ("\u{a0}eth1", "'\\u{a0}eth1'"),
        ("eth1\u{200b}", "'eth1\\u{200b}'"),
        ("eth1\n", "'eth1\\n'"),
    ] {
        let error = address(Some(given), "node", &node(USUAL))
            .unwrap_err()
            .to_string();
        assert!(error.contains(shown), "{error}");
    }
}

#[test]
fn a_node_name_without_exactly_one_usable_address_is_an_error() {
    #[rustfmt::skip] // One row a line.
    let table: &[(&str, &[&str], &[&str])] = &[
        ("loopback alone", &["127.0.0.1", "127.0.1.1"],
            &["node name 'pve1': no usable address", "127.0.0.1/8 on lo: loopback", "127.0.1.1: loopback"]),
        ("a stale entry", &["192.0.2.99"], &["192.0.2.99: no interface of this node has it"]),
        ("two", &["192.0.2.7", "10.0.0.7"],
            &["node name 'pve1': more than one", "192.0.2.7/24 on vmbr0: usable", "10.0.0.7/24 on eth1: usable"]),
        ("nothing", &[], &["no address was found"]),
    ];
    for (name, resolved, expected) in table {
        let error = address(None, "pve1", &named("pve1", resolved, USUAL))
            .expect_err(name)
            .to_string();
        for words in *expected {
            assert!(error.contains(words), "{name}: {words}: {error}");
        }
    }
    let error = address(None, "pve2", &named("pve1", &[], USUAL)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot resolve the node's name 'pve2': unknown here"
    );
}

#[test]
fn a_long_list_of_unusable_addresses_is_truncated() {
    let lines: Vec<String> = (0..200).map(|n| format!("eth1 10.1.0.{n}/24")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let error = address(Some("10.0.0.0/24"), "node", &node(&lines))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("10.1.0.31/24") && !error.contains("10.1.0.32/24"),
        "{error}"
    );
    assert!(error.ends_with("and 168 more"), "{error}");
}

#[test]
fn malformed_migration_networks_are_refused_with_a_reason() {
    let long = "a".repeat(128);
    let long_in_fewer = "ä".repeat(64);
    #[rustfmt::skip] // One row a line.
    let table = [
        ("empty", "", "is empty"),
        ("an address without a prefix", "10.0.0.7", "is an address; write it with its prefix length"),
        ("an IPv6 address without a prefix", "fd00::7", "is an address; write it with its prefix length"),
        ("no address", "host/24", "the part before the slash is not an IP address"),
        ("a short address", "10.0/16", "the part before the slash is not an IP address"),
        ("a leading zero", "010.0.0.0/24", "the part before the slash is not an IP address"),
        ("a zone", "fe80::%eth0/64", "has a zone"),
        ("no prefix", "10.0.0.0/", "the part after the slash is not a prefix length"),
        ("a netmask", "10.0.0.0/255.255.255.0", "the part after the slash is not a prefix length"),
        ("a signed prefix", "10.0.0.0/+24", "the part after the slash is not a prefix length"),
        ("a prefix with a leading zero", "10.0.0.0/024", "the part after the slash is not a prefix length"),
        ("two slashes", "10.0.0.0/24/8", "the part after the slash is not a prefix length"),
        ("a huge prefix", "10.0.0.0/256", "the part after the slash is not a prefix length"),
        ("too long a prefix", "10.0.0.0/33", "has a prefix longer than an address of its family"),
        ("too long an IPv6 prefix", "fd00::/129", "has a prefix longer than an address of its family"),
        ("the whole internet", "0.0.0.0/0", "is too wide"),
        ("half of it", "::/1", "is too wide"),
        ("seven bits", "10.0.0.0/7", "is too wide"),
        ("IPv4 written as IPv6", "::ffff:10.0.0.0/120", "is an IPv4 network written as IPv6"),
        ("128 bytes", long.as_str(), "at most 127 bytes"),
        ("128 bytes in fewer characters", long_in_fewer.as_str(), "at most 127 bytes"),
        ("a character without a visible form", "eth0\u{200b}", "has invisible characters"),
        ("an alias", "eth0:1", "has a colon"),
        ("white space", "eth 0", "has white space or control characters"),
        ("a newline", "eth0\n", "has white space or control characters"),
        ("a control character", "eth\u{7}0", "has white space or control characters"),
        ("a dot", ".", "cannot be the name of an interface"),
        ("two dots", "..", "cannot be the name of an interface"),
    ];
    for (name, spec, expected) in table {
        let error = address(Some(spec), "node", &node(USUAL))
            .expect_err(name)
            .to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(!error.contains('\n'), "{name}: {error}");
    }
    assert_eq!(Spec::parse("10.0.0.7/24"), Spec::parse("10.0.0.0/24"));
    assert_eq!(
        Spec::parse("10.0.0.0/8").unwrap().to_string(),
        "migration network '10.0.0.0/8'"
    );
    assert_eq!(
        Spec::parse("ab/8").unwrap_err().to_string(),
        "migration network 'ab/8' is not a CIDR: the part before the slash is not an IP address"
    );
}

#[test]
fn ipv6_is_bracketed_for_uris() {
    let table = [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:DB8:0::7", "[2001:db8::7]"),
        ("::1", "[::1]"),
    ];
    for (address, expected) in table {
        assert_eq!(uri_host(ip(address)), expected);
    }
    let chosen = address(Some("2001:db8::/64"), "node", &node(USUAL)).unwrap();
    assert_eq!(
        serde_json::to_value(chosen).unwrap(),
        serde_json::json!({"address": "2001:db8::7", "prefix_len": 64, "interface": "vmbr0", "uri_host": "[2001:db8::7]"})
    );
}

#[test]
fn the_system_lookup_resolves_literals_and_reports_failures() {
    assert_eq!(SystemLookup.resolve("127.0.0.1"), Ok(vec![ip("127.0.0.1")]));
    let error = SystemLookup.resolve("no\0name").unwrap_err().to_string();
    assert!(
        error.starts_with("cannot resolve the node's name 'no\\0name': "),
        "{error}"
    );
}
