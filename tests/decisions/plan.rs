//! The decision table, row by row.

use pve_tunnel::plan::{Plan, PlanError, PlanInput, plan};
use serde_json::{Value, json};

fn planned(input: Value) -> Result<Plan, PlanError> {
    plan(&serde_json::from_value::<PlanInput>(input).unwrap())
}

/// asked, target's caps, source's planes, dial (null: not dialled), plane, offline
type Row = (
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    Value,
    &'static str,
    &'static str,
);

const ALL: &[&str] = &["insecure-remote", "direct-tls", "direct-tcp"];
const EVERY_PLANE: &[&str] = &["websocket", "tls", "tcp", "qemu"];

#[test]
fn the_decision_table() {
    let ok = || json!({"ok": true});
    let failed = || json!({"ok": false, "address": "192.0.2.7", "port": 60000, "error": "refused"});
    #[rustfmt::skip] // One row a line.
    let table: Vec<Row> = vec![
        ("new, secure, not dialled", "secure", ALL, EVERY_PLANE, Value::Null, "tls", "tls"),
        ("new, secure, dial answers", "secure", ALL, EVERY_PLANE, ok(), "tls", "tls"),
        ("new, secure, dial fails", "secure", ALL, EVERY_PLANE, failed(), "websocket", "websocket"),
        ("new, secure, source without tls", "secure", ALL, &["websocket", "qemu"], ok(), "websocket", "websocket"),
        ("new, secure, source lists nothing", "secure", ALL, &[], Value::Null, "websocket", "websocket"),
        ("secure, direct-tls alone", "secure", &["direct-tls"], &["tls"], Value::Null, "tls", "tls"),
        ("secure, only clear text offered", "secure", &["insecure-remote", "direct-tcp"], EVERY_PLANE, Value::Null,
            "websocket", "websocket"),
        ("old, secure", "secure", &[], EVERY_PLANE, Value::Null, "websocket", "websocket"),
        ("old, secure, a dial is beside the point", "secure", &[], EVERY_PLANE, failed(), "websocket", "websocket"),
        ("secure, unknown names", "secure", &["direct-quic"], EVERY_PLANE, Value::Null, "websocket", "websocket"),
        ("new, insecure", "insecure", ALL, EVERY_PLANE, Value::Null, "qemu", "tcp"),
        ("new, insecure, dial answers", "insecure", ALL, EVERY_PLANE, ok(), "qemu", "tcp"),
        ("new, insecure, listener unreachable", "insecure", ALL, EVERY_PLANE, failed(), "qemu", "websocket"),
        ("insecure-remote alone", "insecure", &["insecure-remote"], EVERY_PLANE, Value::Null, "qemu", "websocket"),
        ("insecure, source with qemu only", "insecure", ALL, &["qemu"], Value::Null, "qemu", "websocket"),
        ("insecure, source with tcp only", "insecure", ALL, &["tcp"], Value::Null, "tcp", "tcp"),
        ("direct-tcp alone", "insecure", &["direct-tcp"], EVERY_PLANE, ok(), "tcp", "tcp"),
    ];
    for (name, asked, caps, planes, dial, plane, offline) in table {
        let input = json!({"migration_type": asked, "migration_network": null, "caps": caps,
            "planes": planes, "require_encryption": false, "dial": dial});
        let plan = planned(input).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (plan.plane.name(), plan.offline.name()),
            (plane, offline),
            "{name}"
        );
        // Only `qemu` takes QEMU off its UNIX sockets.
        let start = match plane {
            "qemu" => json!({"statefile": "tcp", "type": "insecure"}),
            _ => json!({"statefile": "unix", "type": "websocket"}),
        };
        assert_eq!(serde_json::to_value(&plan.start).unwrap(), start, "{name}");
        // Clear text is warned of exactly where there is some.
        let loud = plan
            .warnings
            .iter()
            .any(|warning| warning.contains("CLEAR TEXT"));
        assert_eq!(loud, asked == "insecure", "{name}: {:?}", plan.warnings);
        assert!(
            !plan.reason.is_empty() && !plan.reason.contains(". "),
            "{name}"
        );
    }
}

#[test]
fn insecure_to_a_target_without_it_names_both_ways_out() {
    let ways_out = "upgrade the target node, or omit migration_type=insecure";
    for caps in [
        json!([]),
        json!(["direct-tls"]),
        json!(["x-y", "direct-tls"]),
    ] {
        let error =
            planned(json!({"migration_type": "insecure", "caps": caps, "planes": EVERY_PLANE}))
                .unwrap_err();
        assert!(matches!(error, PlanError::TargetCannot { .. }), "{error}");
        assert!(error.to_string().contains(ways_out), "{error}");
    }
    let error = planned(json!({"migration_type": "insecure", "caps": ["x-y"], "planes": ["qemu"]}));
    assert!(error.unwrap_err().to_string().contains("it offers x-y"));
}

#[test]
fn insecure_from_a_source_without_it_says_so() {
    #[rustfmt::skip] // One row a line.
    let table = [
        (json!(["insecure-remote"]), json!(["websocket", "tcp"]), "on the planes qemu,"),
        (json!(["direct-tcp"]), json!(["qemu"]), "on the planes tcp,"),
        (json!(ALL), json!(["websocket", "tls"]), "on the planes qemu, tcp,"),
        (json!(ALL), json!([]), "on the planes qemu, tcp,"),
    ];
    for (caps, planes, offered) in table {
        let error = planned(json!({"migration_type": "insecure", "caps": caps, "planes": planes}))
            .unwrap_err()
            .to_string();
        assert!(error.contains(offered), "{error}");
        assert!(
            error.contains("upgrade this node, or omit migration_type=insecure"),
            "{error}"
        );
    }
}

#[test]
fn required_encryption_forbids_insecure_to_every_target() {
    for caps in [json!([]), json!(ALL)] {
        let input = |asked: &str| json!({"migration_type": asked, "caps": caps, "planes": EVERY_PLANE, "require_encryption": 1});
        assert_eq!(
            planned(input("insecure")),
            Err(PlanError::EncryptionRequired)
        );
        assert!(planned(input("secure")).is_ok());
    }
}

#[test]
fn a_dead_clear_text_listener_is_an_error_and_never_another_plane() {
    let input = json!({"migration_type": "insecure", "caps": ["direct-tcp"], "planes": ["tcp"],
        "dial": {"ok": false, "address": "192.0.2.7", "port": "60003", "error": "timed out\nafter 5 s"}});
    let error = planned(input).unwrap_err().to_string();
    assert!(error.contains("192.0.2.7, port 60003"), "{error}");
    assert!(error.contains("timed out after 5 s"), "{error}");
}

#[test]
fn an_unreachable_listener_is_named_in_the_warning() {
    let dial = json!({"ok": false, "address": "2001:db8::7", "port": 60000, "error": "connection refused"});
    for (asked, index) in [("secure", 0), ("insecure", 1)] {
        let plan = planned(
            json!({"migration_type": asked, "caps": ALL, "planes": EVERY_PLANE, "dial": dial}),
        )
        .unwrap();
        let warning = &plan.warnings[index];
        assert!(warning.contains("2001:db8::7, port 60000"), "{warning}");
        assert!(warning.contains("connection refused"), "{warning}");
        assert!(warning.contains("websocket"), "{warning}");
    }
    // Nothing was to go there: nothing to say.
    for caps in [json!([]), json!(["direct-tcp"])] {
        let plan = planned(json!({"caps": caps, "planes": EVERY_PLANE, "dial": dial})).unwrap();
        assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    }
    let plan = planned(
        json!({"migration_type": "insecure", "caps": ["insecure-remote"], "planes": EVERY_PLANE, "dial": dial}),
    )
    .unwrap();
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
    let plan = planned(json!({"caps": ALL, "planes": ["tls"], "dial": {"ok": false}})).unwrap();
    assert!(plan.warnings[0].contains("listener cannot be used: no cause given"));
}

#[test]
fn privileges_follow_clear_text_and_the_network() {
    let privilege = |on: Value| json!([{"path": "/", "privilege": "Sys.Modify", "on": on}]);
    #[rustfmt::skip] // One row a line.
    let table = [
        ("secure", Value::Null, json!([])),
        ("secure", json!("10.0.0.0/24"), privilege(json!(["source"]))),
        ("insecure", Value::Null, privilege(json!(["source", "target"]))),
        ("insecure", json!("vmbr1"), privilege(json!(["source", "target"]))),
    ];
    for (asked, network, expected) in table {
        let plan = planned(
            json!({"migration_type": asked, "migration_network": network,
            "caps": ALL, "planes": EVERY_PLANE}),
        )
        .unwrap();
        assert_eq!(
            serde_json::to_value(plan.privileges).unwrap(),
            expected,
            "{asked} {network}"
        );
    }
}

#[test]
fn a_configured_network_needs_no_privilege_and_changes_nothing_else() {
    #[rustfmt::skip] // One row a line.
    let table = [
        ("secure", json!("dc2")),
        ("secure", Value::Null),
        ("insecure", json!("dc2")),
        ("insecure", json!("a-longer-name.than_an-interface_may-have")),
        ("insecure", json!("10.0.0.0/24")),
        ("insecure", Value::Null),
    ];
    for (asked, network) in table {
        let input = |configured: Value| {
            json!({"migration_type": asked, "migration_network": network, "configured": configured,
                "caps": ALL, "planes": EVERY_PLANE})
        };
        let plan = planned(input(json!(true))).unwrap();
        assert!(plan.privileges.is_empty(), "{asked} {network}");
        assert_eq!(json!(plan.network), network, "{asked}");
        let loud = plan.warnings.iter().any(|text| text.contains("CLEAR TEXT"));
        assert_eq!(loud, asked == "insecure", "{asked} {network}");

        // Not configured, or not said: as ever, and an ID that is no interface name is no network.
        for configured in [json!(false), Value::Null] {
            match planned(input(configured)) {
                Ok(other) => {
                    let none = asked == "secure" && network.is_null();
                    assert_eq!(other.privileges.is_empty(), none, "{asked} {network}");
                    assert_eq!(
                        Plan {
                            privileges: Vec::new(),
                            ..other
                        },
                        plan,
                        "{asked} {network}"
                    );
                }
                Err(error) => {
                    assert!(
                        network.as_str().unwrap().len() > 15,
                        "{asked} {network}: {error}"
                    );
                }
            }
        }
    }
    let error = planned(json!({"migration_network": "10.0.0.0/33", "configured": true}));
    assert!(matches!(error, Err(PlanError::Network(_))), "{error:?}");
    // It does not lift what the configuration forbids.
    let error = planned(
        json!({"migration_type": "insecure", "migration_network": "dc2",
        "configured": true, "require_encryption": true, "caps": ALL, "planes": EVERY_PLANE}),
    );
    assert_eq!(error, Err(PlanError::EncryptionRequired));
}

#[test]
fn the_network_goes_where_the_plane_uses_it() {
    #[rustfmt::skip] // One row a line.
    let table = [
        ("secure", json!(ALL), "tls", json!("10.0.0.0/24")),
        ("secure", json!([]), "websocket", Value::Null),
        ("insecure", json!(["insecure-remote"]), "qemu", json!("10.0.0.0/24")),
        ("insecure", json!(["direct-tcp"]), "tcp", json!("10.0.0.0/24")),
    ];
    for (asked, caps, plane, network) in table {
        let plan = planned(
            json!({"migration_type": asked, "migration_network": "10.0.0.0/24",
            "caps": caps, "planes": EVERY_PLANE}),
        )
        .unwrap();
        assert_eq!(plan.plane.name(), plane);
        let unused = plan
            .warnings
            .iter()
            .any(|warning| warning.contains("'10.0.0.0/24' is not used"));
        assert_eq!(unused, plane == "websocket", "{:?}", plan.warnings);
        let value = serde_json::to_value(&plan).unwrap();
        assert_eq!(value["network"], network, "{plane}");
        assert_eq!(
            value["start"].get("network").unwrap_or(&Value::Null),
            &network,
            "{plane}"
        );
    }
}

#[test]
fn the_clear_text_warning_names_what_and_where() {
    let warning = |caps: Value, network: Value| {
        planned(json!({"migration_type": "insecure", "migration_network": network, "caps": caps, "planes": EVERY_PLANE}))
            .unwrap()
            .warnings
            .remove(0)
    };
    let qemu = warning(json!(["insecure-remote"]), json!("10.0.0.0/24"));
    for words in [
        "WARNING",
        "UNENCRYPTED",
        "guest RAM and the disks",
        "'10.0.0.0/24'",
        "never the internet",
    ] {
        assert!(qemu.contains(words), "{words}: {qemu}");
    }
    let all = warning(json!(ALL), Value::Null);
    assert!(all.contains("guest RAM and all disks and volumes"), "{all}");
    assert!(all.contains("no migration network is given"), "{all}");
}

#[test]
fn a_plan_as_json_has_the_promised_shape() {
    let plan = planned(json!({"migration_type": "insecure", "migration_network": "10.0.0.0/24",
        "caps": ["insecure-remote"], "planes": ["websocket", "qemu"], "require_encryption": false, "dial": null}))
    .unwrap();
    let mut value = serde_json::to_value(plan).unwrap();
    assert!(
        value["warnings"]
            .as_array()
            .is_some_and(|list| list.len() == 1)
    );
    assert!(value["reason"].is_string());
    value["warnings"] = Value::Null;
    value["reason"] = Value::Null;
    assert_eq!(
        value,
        json!({"plane": "qemu", "offline": "websocket", "network": "10.0.0.0/24",
            "start": {"statefile": "tcp", "type": "insecure", "network": "10.0.0.0/24"},
            "privileges": [{"path": "/", "privilege": "Sys.Modify", "on": ["source", "target"]}],
            "warnings": null, "reason": null})
    );
}

#[test]
fn plan_input_takes_perl_values_and_nothing_unknown() {
    #[rustfmt::skip] // One row a line.
    let accepted = [
        ("nothing at all", json!({})),
        ("undefined type", json!({"migration_type": null})),
        ("false as a number", json!({"require_encryption": 0})),
        ("false as an empty string", json!({"require_encryption": ""})),
        ("false as undef", json!({"require_encryption": null})),
        ("a dial with numbers as strings", json!({"dial": {"ok": "0", "port": "60000"}})),
        ("a dial without a port", json!({"dial": {"ok": 0, "port": null}})),
    ];
    for (name, input) in accepted {
        let input: Result<PlanInput, _> = serde_json::from_value(input);
        assert!(input.is_ok_and(|input| plan(&input).is_ok()), "{name}");
    }
    #[rustfmt::skip] // One row a line.
    let refused = [
        ("a misspelt key", json!({"require_encrpytion": true}), "unknown field `require_encrpytion`"),
        ("an unknown key in dial", json!({"dial": {"ok": true, "host": "x"}}), "unknown field `host`"),
        ("dial without ok", json!({"dial": {}}), "missing field `ok`"),
        ("an unknown type", json!({"migration_type": "Secure"}), "unknown variant `Secure`"),
        ("an unknown plane", json!({"planes": ["quic"]}), "unknown variant `quic`"),
        ("a boolean in words", json!({"require_encryption": "no"}), "expected a boolean"),
        ("a boolean out of range", json!({"require_encryption": 2}), "expected a boolean"),
        ("a port out of range", json!({"dial": {"ok": false, "port": 65536}}), "expected a number up to 65535"),
        ("caps no list", json!({"caps": "direct-tls"}), "invalid type"),
    ];
    for (name, input, expected) in refused {
        let error = serde_json::from_value::<PlanInput>(input)
            .expect_err(name)
            .to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    let error = planned(json!({"caps": ["Direct"]}))
        .unwrap_err()
        .to_string();
    assert!(error.contains("has characters other than"), "{error}");
    let error = planned(json!({"migration_network": "10.0.0.1"}))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("migration network '10.0.0.1' is an address"),
        "{error}"
    );
}
