//! The network and policy that `/etc/pve/remote-migration.cfg` gives for one call, on the source
//! and on the target.

use pve_tunnel::configuration::{Configuration, SelectionInput, select};
use serde_json::{Value, json};

/// dc2 has remotes, both types, and insecure as its default. dc3 has a remote and allows only
/// secure. clear allows only clear text and has no remote. vmbr0 has the name of an interface.
/// nowhere has no network.
const SITES: &str = "\
network: dc2
\tremote 192.0.2.7,pve.example.com,fd00::7
\tsource 10.0.0.0/24
\ttarget dc1
\tallow secure,insecure
\tdefault insecure
\tpublic 1
\tgateway 1
\tdead-peer-timeout 30
\tcongestion system
\tbuffer 1M

network: dc3
\tremote 192.0.2.8
\tsource vmbr1
\ttarget 10.3.0.0/24

network: clear
\tsource 10.4.0.0/24
\tallow insecure

network: vmbr0
\tsource 10.5.0.0/24

network: nowhere
\tallow secure,insecure
";

const ENCRYPTED: &str = "\npolicy: cluster\n\trequire-encryption 1\n";

fn selected(text: &str, input: &Value) -> Result<Value, String> {
    let input: SelectionInput =
        serde_json::from_value(input.clone()).map_err(|error| error.to_string())?;
    let configuration = Configuration::parse(text.as_bytes()).unwrap();
    select(&configuration, &input)
        .map(|selection| serde_json::to_value(selection).unwrap())
        .map_err(|error| error.to_string())
}

fn source(remote: &str, kind: Value, network: Value) -> Value {
    json!({"side": "source", "remote": remote, "migration_type": kind, "migration_network": network})
}

fn target(kind: &str, network: Value) -> Value {
    json!({"side": "target", "migration_type": kind, "migration_network": network})
}

/// Some members of an object, in this order.
fn members(value: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| value[name].clone()).collect()
}

#[test]
fn the_selection_of_the_source() {
    let names = [
        "migration_type",
        "migration_network",
        "configured",
        "network",
        "source_network",
        "public",
        "gateway",
        "dead_peer_timeout",
        "congestion",
        "buffer",
    ];
    let null = || Value::Null;
    let dc2 = |kind: &str| {
        json!([
            kind,
            "dc2",
            true,
            "dc1",
            "10.0.0.0/24",
            true,
            true,
            30,
            "system",
            1 << 20
        ])
    };
    let dc3 = || {
        json!([
            "secure",
            "dc3",
            true,
            "10.3.0.0/24",
            "vmbr1",
            false,
            false,
            60,
            "auto",
            "auto"
        ])
    };
    let given = |kind: &str, text: &str| {
        json!([
            kind, text, false, text, text, false, false, 60, "auto", "auto"
        ])
    };
    let none = |kind: &str| {
        json!([
            kind, null, false, null, null, false, false, 60, "auto", "auto"
        ])
    };
    #[rustfmt::skip] // One row a line.
    let table = [
        ("a remote by address", source("192.0.2.7", null(), null()), dc2("insecure"), "network 'dc2' is configured for remote '192.0.2.7'"),
        ("by name", source("PVE.EXAMPLE.COM.", null(), null()), dc2("insecure"), "network 'dc2' is configured for remote 'pve.example.com'"),
        ("by IPv6", source("[fd00:0::07]", null(), null()), dc2("insecure"), "network 'dc2' is configured for remote 'fd00::7'"),
        ("by IPv4 in IPv6", source("::ffff:192.0.2.7", null(), null()), dc2("insecure"), "network 'dc2' is configured for remote '192.0.2.7'"),
        ("the other type", source("192.0.2.7", json!("secure"), null()), dc2("secure"), "network 'dc2' is configured for remote '192.0.2.7'"),
        ("the same type", source("192.0.2.7", json!("insecure"), null()), dc2("insecure"), "network 'dc2' is configured for remote '192.0.2.7'"),
        ("the defaults of a network", source("192.0.2.8", null(), null()), dc3(), "network 'dc3' is configured for remote '192.0.2.8'"),
        ("by ID, its remote", source("192.0.2.7", null(), json!("dc2")), dc2("insecure"), "network 'dc2' was requested by its ID"),
        ("by ID, any remote", source("192.0.2.9", null(), json!("clear")),
            json!(["insecure", "clear", true, null, "10.4.0.0/24", false, false, 60, "auto", "auto"]), "network 'clear' was requested by its ID"),
        ("by ID, in place of the remote's own", source("192.0.2.7", null(), json!("vmbr0")),
            json!(["secure", "vmbr0", true, null, "10.5.0.0/24", false, false, 60, "auto", "auto"]), "network 'vmbr0' was requested by its ID"),
        ("by ID, without any network", source("192.0.2.9", json!("insecure"), json!("nowhere")),
            json!(["insecure", "nowhere", true, null, null, false, false, 60, "auto", "auto"]), "network 'nowhere' was requested by its ID"),
        ("a CIDR", source("192.0.2.9", null(), json!("10.9.0.0/16")), given("secure", "10.9.0.0/16"), "migration network '10.9.0.0/16' was given"),
        ("a CIDR and insecure", source("192.0.2.9", json!("insecure"), json!("fd00::/64")), given("insecure", "fd00::/64"), "migration network 'fd00::/64' was given"),
        ("an interface", source("192.0.2.9", null(), json!("eth1")), given("secure", "eth1"), "migration network 'eth1' was given"),
        ("an interface, almost an ID", source("192.0.2.9", null(), json!("DC2")), given("secure", "DC2"), "migration network 'DC2' was given"),
        ("a CIDR in place of the remote's own", source("192.0.2.7", null(), json!("10.9.0.0/16")), given("secure", "10.9.0.0/16"),
            "migration network '10.9.0.0/16' was given, and replaces network 'dc2', which is configured for remote '192.0.2.7'"),
        ("a CIDR that a network has, too", source("192.0.2.7", null(), json!("10.0.0.0/24")), given("secure", "10.0.0.0/24"),
            "migration network '10.0.0.0/24' was given, and replaces network 'dc2', which is configured for remote '192.0.2.7'"),
        ("insecure on a CIDR, whatever the remote's own allows", source("192.0.2.8", json!("insecure"), json!("10.9.0.0/16")), given("insecure", "10.9.0.0/16"),
            "migration network '10.9.0.0/16' was given, and replaces network 'dc3', which is configured for remote '192.0.2.8'"),
        ("nothing", source("pve", null(), null()), none("secure"), "no network is configured for remote 'pve'"),
        ("nothing but a type", source("192.0.2.9", json!("insecure"), null()), none("insecure"), "no network is configured for remote '192.0.2.9'"),
    ];
    for (name, input, expected, reason) in table {
        let selection = selected(SITES, &input).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(members(&selection, &names), expected, "{name}");
        assert_eq!(selection["require_encryption"], json!(false), "{name}");
        assert_eq!(selection["reason"], json!(reason), "{name}");
        assert_eq!(
            selection.as_object().unwrap().len(),
            names.len() + 5,
            "{name}"
        );

        // The policy changes only this member, unless the data would be in clear text.
        let encrypted = selected(&format!("{SITES}{ENCRYPTED}"), &input);
        if expected[0] == json!("secure") {
            let mut same = selection;
            same["require_encryption"] = json!(true);
            assert_eq!(encrypted, Ok(same), "{name}");
        } else {
            let error = encrypted.expect_err(name);
            assert!(error.contains("requires encryption"), "{name}: {error}");
        }
    }
    // Without a file. Absent members count as null.
    let empty = selected("", &json!({"side": "source", "remote": "192.0.2.7"})).unwrap();
    assert_eq!(members(&empty, &names), none("secure"));
}

#[test]
fn the_selection_of_the_target() {
    let null = || Value::Null;
    #[rustfmt::skip] // One row a line.
    let table = [
        ("an ID", target("secure", json!("dc2")), json!(["10.0.0.0/24", true, true, "system", 1 << 20]), "network 'dc2' was requested by its ID"),
        ("an ID, insecure", target("insecure", json!("dc2")), json!(["10.0.0.0/24", true, true, "system", 1 << 20]), "network 'dc2' was requested by its ID"),
        ("an ID on an interface", target("secure", json!("dc3")), json!(["vmbr1", true, false, "auto", "auto"]), "network 'dc3' was requested by its ID"),
        ("an ID like an interface", target("secure", json!("vmbr0")), json!(["10.5.0.0/24", true, false, "auto", "auto"]), "network 'vmbr0' was requested by its ID"),
        ("an ID without a network", target("insecure", json!("nowhere")), json!([null, true, false, "auto", "auto"]), "network 'nowhere' was requested by its ID"),
        ("a CIDR", target("insecure", json!("10.0.0.0/24")), json!(["10.0.0.0/24", false, false, "auto", "auto"]), "migration network '10.0.0.0/24' was given"),
        ("an interface", target("secure", json!("vmbr1")), json!(["vmbr1", false, false, "auto", "auto"]), "migration network 'vmbr1' was given"),
        ("nothing", target("secure", null()), json!([null, false, false, "auto", "auto"]), "no network was requested"),
        ("nothing, insecure", target("insecure", null()), json!([null, false, false, "auto", "auto"]), "no network was requested"),
    ];
    for (name, input, expected, reason) in table {
        let selection = selected(SITES, &input).unwrap_or_else(|error| panic!("{name}: {error}"));
        let names = ["network", "configured", "public", "congestion", "buffer"];
        assert_eq!(members(&selection, &names), expected, "{name}");
        assert_eq!(selection["require_encryption"], json!(false), "{name}");
        assert_eq!(selection["reason"], json!(reason), "{name}");
        assert_eq!(selection.as_object().unwrap().len(), 8, "{name}");

        let encrypted = selected(&format!("{SITES}{ENCRYPTED}"), &input);
        if input["migration_type"] == json!("secure") {
            assert_eq!(
                encrypted.unwrap()["require_encryption"],
                json!(true),
                "{name}"
            );
        } else {
            let error = encrypted.expect_err(name);
            assert!(error.contains("requires encryption"), "{name}: {error}");
        }
    }
}

#[test]
fn a_call_that_is_not_permitted_is_refused_with_the_remedies() {
    let null = || Value::Null;
    let encrypted = format!("{SITES}{ENCRYPTED}");
    #[rustfmt::skip] // One row a line.
    let table = [
        ("a type that the remote's network does not allow", SITES, source("192.0.2.8", json!("insecure"), null()),
            "network 'dc3' does not allow migration_type=insecure (it allows: secure)"),
        ("a type that the ID does not allow", SITES, source("192.0.2.9", json!("secure"), json!("clear")),
            "network 'clear' does not allow migration_type=secure (it allows: insecure)"),
        ("on the target", SITES, target("insecure", json!("dc3")),
            "network 'dc3' does not allow migration_type=insecure (it allows: secure)"),
        ("on the target, secure", SITES, target("secure", json!("clear")),
            "network 'clear' does not allow migration_type=secure (it allows: insecure)"),
        ("an ID for another remote", SITES, source("192.0.2.9", json!("secure"), json!("dc2")),
            "network 'dc2' is configured for 192.0.2.7, pve.example.com, fd00::7, not for '192.0.2.9': add '192.0.2.9' to its 'remote'"),
        ("an ID of another network, for a remote with its own", SITES, source("192.0.2.8", null(), json!("dc2")), "not for '192.0.2.8'"),
        ("no network", SITES, source("192.0.2.7", null(), json!("")), "migration network '' is empty"),
        ("half a CIDR", SITES, source("192.0.2.7", null(), json!("10.0.0.0/")), "migration network '10.0.0.0/' is not a CIDR"),
        ("an address", SITES, target("secure", json!("10.0.0.1")), "migration network '10.0.0.1' is an address"),
        ("no remote", SITES, source("", null(), null()), "remote '' is empty"),
        ("a remote with a port", SITES, source("pve:8006", null(), null()), "remote 'pve:8006' has a port"),
        ("insecure against the policy", &encrypted, source("192.0.2.9", json!("insecure"), null()),
            "migration_type=insecure would send guest data in clear text, but the policy in the configuration requires encryption (require-encryption): use migration_type=secure"),
        ("by default", &encrypted, source("192.0.2.7", null(), null()),
            "migration_type=insecure, the default of network 'dc2', would send guest data in clear text, but the policy"),
        ("with nothing else allowed", &encrypted, source("192.0.2.9", null(), json!("clear")),
            "requires encryption (require-encryption): add secure to the 'allow' of network 'clear'"),
        ("not allowed by the network either", &encrypted, source("192.0.2.8", json!("insecure"), null()), "requires encryption"),
        ("on a CIDR", &encrypted, source("192.0.2.7", json!("insecure"), json!("10.0.0.0/24")), "requires encryption"),
        ("on the target", &encrypted, target("insecure", json!("dc2")), "requires encryption (require-encryption): use migration_type=secure"),
        ("on the target, without a network", &encrypted, target("insecure", null()), "requires encryption"),
    ];
    for (name, text, input, expected) in table {
        let error = selected(text, &input).expect_err(name);
        assert!(error.contains(expected), "{name}: {error}");
    }
    // Secure remains possible if the policy forbids the default.
    assert!(selected(&encrypted, &source("192.0.2.7", json!("secure"), null())).is_ok());
}

#[test]
fn a_call_with_missing_or_unknown_keys_of_its_side_is_refused() {
    #[rustfmt::skip] // One row a line.
    let table = [
        ("no side", json!({"remote": "pve"}), "missing field `side`"),
        ("another side", json!({"side": "middle"}), "unknown variant `middle`"),
        ("no remote", json!({"side": "source"}), "missing field `remote`"),
        ("an undefined remote", json!({"side": "source", "remote": null}), "invalid type: null"),
        ("no type on the target", json!({"side": "target"}), "missing field `migration_type`"),
        ("an undefined type on the target", json!({"side": "target", "migration_type": null}), "expected string or map"),
        ("a remote on the target", json!({"side": "target", "migration_type": "secure", "remote": "pve"}), "unknown field `remote`"),
        ("a misspelt key", json!({"side": "source", "remote": "pve", "migration-type": "secure"}), "unknown field `migration-type`"),
        ("another type", json!({"side": "source", "remote": "pve", "migration_type": "Insecure"}), "unknown variant `Insecure`"),
        ("a network that is not text", json!({"side": "source", "remote": "pve", "migration_network": 5}), "invalid type"),
    ];
    for (name, input, expected) in table {
        let error = selected("", &input).expect_err(name);
        assert!(error.contains(expected), "{name}: {error}");
    }
}
