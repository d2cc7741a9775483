//! Endpoints that a target announces, with a row for each kind of malformed input.

use pve_tunnel::network::endpoint::{EndpointInput, check};
use serde_json::{Value, json};

fn checked(input: &Value) -> Result<Value, String> {
    let input: EndpointInput =
        serde_json::from_value(input.clone()).map_err(|error| error.to_string())?;
    check(&input)
        .map(|endpoint| serde_json::to_value(endpoint).unwrap())
        .map_err(|error| error.to_string())
}

fn migrate(addr: &str, network: Value) -> Value {
    json!({"migrate": {"proto": "tcp", "addr": addr, "port": 60000}, "network": network})
}

fn nbd(uri: &str) -> Value {
    json!({"nbd_uri": uri, "network": "10.0.0.0/24"})
}

#[test]
fn literal_addresses_in_the_migration_network_are_accepted() {
    #[rustfmt::skip] // One row a line.
    let table = [
        ("IPv4", migrate("10.0.0.7", json!("10.0.0.0/24")),
            json!({"address": "10.0.0.7", "port": 60000, "uri": "tcp:10.0.0.7:60000"})),
        ("no network", migrate("192.0.2.7", Value::Null),
            json!({"address": "192.0.2.7", "port": 60000, "uri": "tcp:192.0.2.7:60000"})),
        ("a network with host bits", migrate("10.0.0.7", json!("10.0.0.9/24")),
            json!({"address": "10.0.0.7", "port": 60000, "uri": "tcp:10.0.0.7:60000"})),
        ("IPv6, bare", migrate("fd00:0::7", json!("fd00::/64")),
            json!({"address": "fd00::7", "port": 60000, "uri": "tcp:[fd00::7]:60000"})),
        ("IPv6 in brackets, as stock workers announce it", migrate("[FD00::7]", json!("fd00::/64")),
            json!({"address": "fd00::7", "port": 60000, "uri": "tcp:[fd00::7]:60000"})),
        ("port as a string, last of the range, and keys of other planes",
            json!({"migrate": {"proto": "tcp", "addr": "10.0.0.7", "port": "60049", "unix_sockets": []}}),
            json!({"address": "10.0.0.7", "port": 60049, "uri": "tcp:10.0.0.7:60049"})),
        ("NBD", nbd("nbd:10.0.0.7:60001:exportname=drive-scsi0"),
            json!({"address": "10.0.0.7", "port": 60001, "export": "drive-scsi0", "uri": "nbd:10.0.0.7:60001:exportname=drive-scsi0"})),
        ("NBD over IPv6", json!({"nbd_uri": "nbd:[fd00::7]:60001:exportname=drive-efidisk0"}),
            json!({"address": "fd00::7", "port": 60001, "export": "drive-efidisk0", "uri": "nbd:[fd00::7]:60001:exportname=drive-efidisk0"})),
        ("loopback where it is allowed",
            json!({"migrate": {"proto": "tcp", "addr": "127.0.3.1", "port": 60000}, "network": "127.0.0.0/8", "allow_loopback": 1}),
            json!({"address": "127.0.3.1", "port": 60000, "uri": "tcp:127.0.3.1:60000"})),
        ("link-local IPv4 in a network that is only link-local", migrate("169.254.9.1", json!("169.254.9.0/24")),
            json!({"address": "169.254.9.1", "port": 60000, "uri": "tcp:169.254.9.1:60000"})),
        ("the upper end of a point-to-point network", migrate("10.0.0.1", json!("10.0.0.0/31")),
            json!({"address": "10.0.0.1", "port": 60000, "uri": "tcp:10.0.0.1:60000"})),
    ];
    for (name, input, expected) in table {
        assert_eq!(checked(&input), Ok(expected), "{name}");
    }
}

#[test]
fn addresses_that_are_not_literal_are_refused() {
    #[rustfmt::skip] // One row a line.
    let table = [
        ("empty", "", "it is empty"),
        ("a name", "target.example", "only literal addresses are accepted"),
        ("localhost", "localhost", "only literal addresses are accepted"),
        ("a leading space", " 10.0.0.7", "only literal addresses are accepted"),
        ("a trailing newline", "10.0.0.7\n", "only literal addresses are accepted"),
        ("hexadecimal", "0x0a000007", "only literal addresses are accepted"),
        ("a leading zero", "010.0.0.7", "without leading zeros"),
        ("a short form", "10.7", "four decimal numbers"),
        ("one number", "167772167", "four decimal numbers"),
        ("too large a number", "10.0.0.256", "four decimal numbers"),
        ("five numbers", "10.0.0.7.1", "four decimal numbers"),
        ("IPv4 with a port", "10.0.0.7:60000", "is not an IPv6 address"),
        ("IPv4 in brackets", "[10.0.0.7]", "is not an IPv6 address"),
        ("an open bracket", "[fd00::7", "has no closing bracket"),
        ("a zone", "fe80::1%eth0", "has a zone"),
        ("a zone in brackets", "[fe80::1%2]", "has a zone"),
        ("IPv4 mapped into IPv6", "::ffff:10.0.0.7", "is an IPv4 address written as IPv6"),
        ("IPv4 mapped, in hexadecimal", "[::ffff:a00:7]", "is an IPv4 address written as IPv6"),
        ("IPv6 with two gaps", "fd00::1::2", "is not an IPv6 address"),
        ("another option for QEMU", "10.0.0.7,ipv4=on", "only literal addresses are accepted"),
    ];
    for (name, addr, expected) in table {
        let error = checked(&migrate(addr, Value::Null)).expect_err(name);
        assert!(error.contains(expected), "{name}: {error}");
        assert!(!error.contains('\n'), "{name}: {error}");
    }
}

#[test]
fn addresses_that_must_not_receive_guest_data_are_refused() {
    #[rustfmt::skip] // One row a line.
    let table = [
        ("unspecified IPv4", "0.0.0.0", "the unspecified address"),
        ("unspecified IPv6", "::", "the unspecified address"),
        ("this network", "0.1.2.3", "0.0.0.0/8"),
        ("loopback IPv4", "127.0.0.1", "a loopback address"),
        ("loopback IPv4, far end", "127.255.255.254", "a loopback address"),
        ("loopback IPv6", "::1", "a loopback address"),
        ("multicast IPv4", "224.0.0.1", "a multicast address"),
        ("multicast IPv6", "ff02::1", "a multicast address"),
        ("broadcast", "255.255.255.255", "the broadcast address"),
        ("link-local IPv4", "169.254.9.1", "a link-local address"),
        ("link-local IPv6", "fe80::1", "unusable without a zone"),
        ("IPv4-compatible", "::10.0.0.7", "IPv6 with an IPv4 address inside (IPv4-compatible)"),
        ("6to4", "2002:a00:7::1", "IPv6 with an IPv4 address inside (6to4)"),
        ("Teredo", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "IPv6 with an IPv4 address inside (Teredo)"),
        ("NAT64", "64:ff9b::a00:7", "IPv6 with an IPv4 address inside (NAT64)"),
        ("NAT64, local prefix", "64:ff9b:1::a00:7", "IPv6 with an IPv4 address inside (NAT64)"),
        ("ISATAP", "fd00::5efe:a00:7", "IPv6 with an IPv4 address inside (ISATAP)"),
        ("ISATAP of a global address", "fd00::200:5efe:c000:207", "IPv6 with an IPv4 address inside (ISATAP)"),
        ("translated (RFC 2765)", "::ffff:0:a00:7", "IPv6 with an IPv4 address inside (SIIT)"),
    ];
    for (name, addr, expected) in table {
        let error = checked(&migrate(addr, Value::Null)).expect_err(name);
        assert!(error.contains(expected), "{name}: {error}");
        let parsed: std::net::IpAddr = addr.parse().unwrap();
        assert!(error.contains(&parsed.to_string()), "{name}: {error}");
    }
    let error_in = |addr: &str, network: &str| checked(&migrate(addr, json!(network))).unwrap_err();
    assert!(error_in("127.0.0.1", "127.0.0.0/8").contains("a loopback address"));
    assert!(error_in("fe80::1", "fe80::/64").contains("unusable without a zone"));
    assert!(
        error_in("10.0.0.255", "10.0.0.0/24")
            .contains("the broadcast address of the migration network")
    );
    assert!(error_in("169.254.9.1", "160.0.0.0/8").contains("a link-local address"));
    // A network inside a form was written on purpose; a wider one was not.
    assert!(checked(&migrate("64:ff9b::a00:7", json!("64:ff9b::/96"))).is_ok());
    assert!(checked(&migrate("2002:a00:7::1", json!("2002:a00:7::/48"))).is_ok());
    assert!(error_in("2002:a00:7::1", "2000::/8").contains("6to4"));
    assert!(error_in("fd00::5efe:a00:7", "fd00::/64").contains("ISATAP"));
    // The permission for loopback does not extend to other addresses.
    for addr in [
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "fe80::1",
    ] {
        let mut input = migrate(addr, Value::Null);
        input["allow_loopback"] = json!(true);
        assert!(checked(&input).is_err(), "{addr}");
    }
}

#[test]
fn addresses_outside_the_migration_network_are_refused() {
    let table = [
        ("10.0.1.7", "10.0.0.0/24"),
        ("192.0.2.7", "10.0.0.0/8"),
        ("fd00:1::7", "fd00::/64"),
        ("fd00::7", "10.0.0.0/24"),
        ("10.0.0.7", "fd00::/64"),
    ];
    for (addr, network) in table {
        let error = checked(&migrate(addr, json!(network))).unwrap_err();
        let expected = format!("{addr}: it is outside the migration network {network}");
        assert!(error.contains(&expected), "{error}");
    }
    // An allowed loopback address still has to be inside the network.
    let mut input = migrate("127.0.0.1", json!("10.0.0.0/24"));
    input["allow_loopback"] = json!(true);
    assert!(
        checked(&input)
            .unwrap_err()
            .contains("outside the migration network")
    );
}

#[test]
fn ports_outside_the_range_are_refused() {
    let outside = "it is outside 60000 to 60049";
    let malformed = "it is not a decimal number";
    #[rustfmt::skip] // One row a line.
    let table = [
        ("below", json!(59999), outside),
        ("above", json!(60050), outside),
        ("zero", json!(0), outside),
        ("the API's", json!(8006), outside),
        ("beyond 16 bits, where it would wrap into the range", json!(65536 + 60000), outside),
        ("beyond 64 bits", json!("99999999999999999999"), malformed),
        ("negative", json!(-60000), malformed),
        ("a fraction", json!(60000.5), malformed),
        ("a leading zero", json!("060000"), malformed),
        ("a sign", json!("+60000"), malformed),
        ("a space", json!("60000 "), malformed),
        ("a service", json!("nbd"), malformed),
        ("empty", json!(""), malformed),
        ("null", Value::Null, malformed),
        ("a list", json!([60000]), malformed),
    ];
    for (name, port, expected) in table {
        let input = json!({"migrate": {"proto": "tcp", "addr": "10.0.0.7", "port": port}});
        let error = checked(&input).expect_err(name);
        assert!(error.contains(expected), "{name}: {error}");
    }
    for port in ["59999", "60050"] {
        let error = checked(&nbd(&format!("nbd:10.0.0.7:{port}:exportname=a"))).unwrap_err();
        assert!(error.contains(outside), "{error}");
    }
}

#[test]
fn malformed_nbd_uris_are_refused() {
    #[rustfmt::skip] // One row a line.
    let table = [
        ("empty", "", "does not begin with 'nbd:'"),
        ("another scheme", "tcp:10.0.0.7:60000", "does not begin with 'nbd:'"),
        ("the URI style", "nbd://10.0.0.7:60000/drive", "is a name or malformed"),
        ("a UNIX socket", "nbd:unix:/run/x:exportname=drive-scsi0", "is a UNIX socket"),
        ("no port", "nbd:10.0.0.7", "has no port"),
        ("no export", "nbd:10.0.0.7:60000", "has no export name"),
        ("another option", "nbd:10.0.0.7:60000:name=a", "has something other than 'exportname='"),
        ("a name for an address", "nbd:target:60000:exportname=a", "only literal addresses"),
        ("IPv6 without brackets", "nbd:fd00::7:60000:exportname=a", "has IPv6 without brackets"),
        ("an open bracket", "nbd:[fd00::7:60000:exportname=a", "has no ']:' after its IPv6 address"),
        ("text after the bracket", "nbd:[fd00::7]x:60000:exportname=a", "has no ']:' after its IPv6 address"),
        ("IPv4 in brackets", "nbd:[10.0.0.7]:60000:exportname=a", "is not an IPv6 address"),
        ("no port number", "nbd:10.0.0.7::exportname=a", "it is not a decimal number"),
        ("outside the network", "nbd:10.0.1.7:60000:exportname=a", "outside the migration network"),
        ("an empty export", "nbd:10.0.0.7:60000:exportname=", "export '': it is empty"),
        ("one more option", "nbd:10.0.0.7:60000:exportname=a:b=c", "export 'a:b=c': it has characters"),
        ("a comma", "nbd:10.0.0.7:60000:exportname=a,b", "has characters other than"),
        ("a path", "nbd:10.0.0.7:60000:exportname=../a", "has characters other than"),
        ("a newline", "nbd:10.0.0.7:60000:exportname=a\nb", "has characters other than"),
        ("an export name like an option", "nbd:10.0.0.7:60000:exportname=-a", "does not begin with a letter or digit"),
    ];
    for (name, uri, expected) in table {
        let error = checked(&nbd(uri)).expect_err(name);
        assert!(error.contains(expected), "{name}: {error}");
        assert!(!error.contains('\n'), "{name}: {error}");
    }
    let long = format!("nbd:10.0.0.7:60000:exportname={}", "a".repeat(65));
    assert!(
        checked(&nbd(&long))
            .unwrap_err()
            .contains("is longer than 64 characters")
    );
    assert!(checked(&nbd(&long[..long.len() - 1])).is_ok());
}

#[test]
fn malformed_input_is_refused() {
    let fine = json!({"proto": "tcp", "addr": "10.0.0.7", "port": 60000});
    #[rustfmt::skip] // One row a line.
    let table = [
        ("nothing to check", json!({}), "got neither"),
        ("two to check", json!({"migrate": fine, "nbd_uri": "nbd:10.0.0.7:60000:exportname=a"}), "got both"),
        ("an unknown key", json!({"migrate": fine, "netwrok": "10.0.0.0/24"}), "unknown field `netwrok`"),
        ("no protocol", json!({"migrate": {"addr": "10.0.0.7", "port": 60000}}), "missing field `proto`"),
        ("UNIX sockets", json!({"migrate": {"proto": "unix", "addr": "/run/x", "port": 60000}}),
            "protocol 'unix', expected 'tcp'"),
        ("TLS", json!({"migrate": {"proto": "TCP", "addr": "10.0.0.7", "port": 60000}}), "protocol 'TCP', expected 'tcp'"),
        ("a network without a prefix", json!({"migrate": fine, "network": "10.0.0.0"}), "it is not a CIDR"),
        ("an interface for a network", json!({"migrate": fine, "network": "vmbr0"}), "it is not a CIDR"),
        ("an empty network", json!({"migrate": fine, "network": ""}), "it is not a CIDR"),
        ("the whole internet", json!({"migrate": fine, "network": "0.0.0.0/0"}), "it is too wide"),
        ("a boolean in words", json!({"migrate": fine, "allow_loopback": "yes"}), "expected a boolean"),
    ];
    for (name, input, expected) in table {
        let error = checked(&input).expect_err(name);
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn without_a_network_only_the_address_of_the_control_connection_is_accepted() {
    let announced = |addr: &str, control: &str, network: Value| {
        let mut input = migrate(addr, network);
        input["control"] = json!(control);
        checked(&input).map(|endpoint| endpoint["address"].clone())
    };
    #[rustfmt::skip] // One row a line.
    let accepted = [
        ("the same address", "10.9.0.7", "10.9.0.7", Value::Null),
        ("over a socket for both families", "10.9.0.7", "::ffff:10.9.0.7", Value::Null),
        ("IPv6 in another spelling", "fd00:0::7", "fd00::7", Value::Null),
        ("another one in a network of the operator", "10.9.0.8", "10.9.0.7", json!("10.9.0.0/24")),
    ];
    for (name, addr, control, network) in accepted {
        assert!(announced(addr, control, network).is_ok(), "{name}");
    }
    for (addr, control, target) in [
        ("10.9.0.100", "203.0.113.5", "10.9.0.100/32"),
        ("10.9.0.100", "fd00::7", "10.9.0.100/32"),
        ("fd00::8", "fd00::7", "fd00::8/128"),
    ] {
        let error = announced(addr, control, Value::Null).unwrap_err();
        let expected = format!(
            "the target announces address {addr}, but its API was reached at {control}, and no network of this node permits another address: if the address is right, add the section 'network: other-cluster' with the lines ' remote {control}' and ' target {target}', or a network around it, to /etc/pve/remote-migration.cfg on this node"
        );
        assert_eq!(error, expected);
    }
    let mut input = migrate("10.9.0.100", Value::Null);
    input["control"] = json!("203.0.113.5");
    input["remote"] = json!("pve.example.com");
    let error = checked(&input).unwrap_err();
    assert!(error.contains("' remote pve.example.com'"), "{error}");
    input["configured"] = json!("dc2");
    let error = checked(&input).unwrap_err();
    assert!(
        error.contains("add the line ' target 10.9.0.100/32', or a network around it, to the section 'network: dc2'"),
        "{error}"
    );
}
