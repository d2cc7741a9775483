//! The decision table, row by row.

use pve_tunnel::plan::{Plan, PlanError, PlanInput, plan};
use serde_json::{Value, json};

fn planned(input: Value) -> Result<Plan, PlanError> {
    plan(&serde_json::from_value::<PlanInput>(input).unwrap())
}

/// Name of the row, requested type, target's caps, source's planes, result of the dial (null: not
/// dialled), expected plane, expected plane of offline disks.
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
        ("old, secure, the result of a dial is ignored", "secure", &[], EVERY_PLANE, failed(), "websocket", "websocket"),
        ("secure, unknown names", "secure", &["direct-quic"], EVERY_PLANE, Value::Null, "websocket", "websocket"),
        ("new, insecure", "insecure", ALL, EVERY_PLANE, Value::Null, "qemu", "tcp"),
        ("new, insecure, dial answers", "insecure", ALL, EVERY_PLANE, ok(), "qemu", "tcp"),
        ("new, insecure, listener unreachable", "insecure", ALL, EVERY_PLANE, failed(), "qemu", "websocket"),
        ("insecure-remote alone", "insecure", &["insecure-remote"], EVERY_PLANE, Value::Null, "qemu", "websocket"),
        ("insecure, source with qemu only", "insecure", ALL, &["qemu"], Value::Null, "qemu", "websocket"),
        ("insecure, source with tcp only", "insecure", ALL, &["tcp"], Value::Null, "tcp", "tcp"),
        ("direct-tcp alone", "insecure", &["direct-tcp"], EVERY_PLANE, ok(), "tcp", "tcp"),
    ];
    for (name, requested, caps, planes, dial, plane, offline) in table {
        let input = json!({"migration_type": requested, "migration_network": null, "caps": caps,
            "planes": planes, "require_encryption": false, "dial": dial});
        let plan = planned(input).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (plan.plane.name(), plan.offline.name()),
            (plane, offline),
            "{name}"
        );
        // Only with `qemu`, QEMU uses TCP in place of a UNIX socket.
        let start = match plane {
            "qemu" => json!({"statefile": "tcp", "type": "insecure"}),
            _ => json!({"statefile": "unix", "type": "websocket"}),
        };
        assert_eq!(serde_json::to_value(&plan.start).unwrap(), start, "{name}");
        // There is a warning about clear text if and only if the plan uses it.
        let warns = plan
            .warnings
            .iter()
            .any(|warning| warning.contains("CLEAR TEXT"));
        assert_eq!(
            warns,
            requested == "insecure",
            "{name}: {:?}",
            plan.warnings
        );
        assert!(
            !plan.reason.is_empty() && !plan.reason.contains(". "),
            "{name}"
        );
    }
}

#[test]
fn the_reason_for_the_websocket_is_the_one_that_applies() {
    let withheld = "require-encryption\nis set";
    #[rustfmt::skip] // One row a line.
    let table = [
        (json!({"caps": [], "planes": ["tls"]}), "the target does not offer direct TLS"),
        (json!({"caps": [], "planes": ["tls"], "tls_withheld": withheld}),
            "the target withholds direct TLS: require-encryption is set"),
        // Of a target that was not asked, nothing is known.
        (json!({"caps": [], "planes": []}), "the caller does not permit direct TLS"),
        (json!({"caps": ALL, "planes": ["tcp"], "tls_withheld": withheld}),
            "the caller does not permit direct TLS"),
        (json!({"caps": ALL, "planes": ["tls"], "dial": {"ok": false}}),
            "the target's direct TLS listener cannot be used"),
    ];
    for (input, reason) in table {
        let plan = planned(input).unwrap();
        assert_eq!(plan.plane.name(), "websocket");
        assert_eq!(plan.reason, format!("secure was requested, and {reason}"));
    }
}

#[test]
fn insecure_to_a_target_without_it_is_an_error_with_both_remedies() {
    let remedies = "upgrade the target node, or omit migration_type=insecure";
    for caps in [
        json!([]),
        json!(["direct-tls"]),
        json!(["x-y", "direct-tls"]),
    ] {
        let error =
            planned(json!({"migration_type": "insecure", "caps": caps, "planes": EVERY_PLANE}))
                .unwrap_err();
        assert!(matches!(error, PlanError::TargetCannot { .. }), "{error}");
        assert!(error.to_string().contains(remedies), "{error}");
    }
    let error = planned(json!({"migration_type": "insecure", "caps": ["x-y"], "planes": ["qemu"]}));
    assert!(error.unwrap_err().to_string().contains("it offers x-y"));
}

#[test]
fn insecure_from_a_source_without_it_is_an_error() {
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
        let input = |requested: &str| json!({"migration_type": requested, "caps": caps, "planes": EVERY_PLANE, "require_encryption": 1});
        assert_eq!(
            planned(input("insecure")),
            Err(PlanError::EncryptionRequired)
        );
        assert!(planned(input("secure")).is_ok());
    }
}

#[test]
fn an_unreachable_clear_text_listener_is_an_error_and_not_another_plane() {
    let input = json!({"migration_type": "insecure", "caps": ["direct-tcp"], "planes": ["tcp"],
        "dial": {"ok": false, "address": "192.0.2.7", "port": "60003", "error": "timed out\nafter 5 s"}});
    let error = planned(input).unwrap_err().to_string();
    assert!(error.contains("192.0.2.7, port 60003"), "{error}");
    assert!(error.contains("timed out after 5 s"), "{error}");
}

#[test]
fn an_unreachable_listener_is_named_in_the_warning() {
    let dial = json!({"ok": false, "address": "2001:db8::7", "port": 60000, "error": "connection refused"});
    for (requested, index) in [("secure", 0), ("insecure", 1)] {
        let plan = planned(
            json!({"migration_type": requested, "caps": ALL, "planes": EVERY_PLANE, "dial": dial}),
        )
        .unwrap();
        let warning = &plan.warnings[index];
        assert!(warning.contains("2001:db8::7, port 60000"), "{warning}");
        assert!(warning.contains("connection refused"), "{warning}");
        assert!(warning.contains("websocket"), "{warning}");
    }
    // No warning if the plan would not have used the listener.
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
    for (requested, network, expected) in table {
        let plan = planned(
            json!({"migration_type": requested, "migration_network": network,
            "caps": ALL, "planes": EVERY_PLANE}),
        )
        .unwrap();
        assert_eq!(
            serde_json::to_value(plan.privileges).unwrap(),
            expected,
            "{requested} {network}"
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
    for (requested, network) in table {
        let input = |configured: Value| {
            json!({"migration_type": requested, "migration_network": network, "configured": configured,
                "caps": ALL, "planes": EVERY_PLANE})
        };
        let plan = planned(input(json!(true))).unwrap();
        assert!(plan.privileges.is_empty(), "{requested} {network}");
        assert_eq!(json!(plan.network), network, "{requested}");
        let warns = plan.warnings.iter().any(|text| text.contains("CLEAR TEXT"));
        assert_eq!(warns, requested == "insecure", "{requested} {network}");

        // If the network is not configured or the member is absent, the privileges are required,
        // and an ID that cannot be an interface name is refused.
        for configured in [json!(false), Value::Null] {
            match planned(input(configured)) {
                Ok(other) => {
                    let none = requested == "secure" && network.is_null();
                    assert_eq!(other.privileges.is_empty(), none, "{requested} {network}");
                    assert_eq!(
                        Plan {
                            privileges: Vec::new(),
                            ..other
                        },
                        plan,
                        "{requested} {network}"
                    );
                }
                Err(error) => {
                    assert!(
                        network.as_str().unwrap().len() > 15,
                        "{requested} {network}: {error}"
                    );
                }
            }
        }
    }
    let error = planned(json!({"migration_network": "10.0.0.0/33", "configured": true}));
    assert!(matches!(error, Err(PlanError::Network(_))), "{error:?}");
    // A configured network does not override the encryption policy.
    let error = planned(
        json!({"migration_type": "insecure", "migration_network": "dc2",
        "configured": true, "require_encryption": true, "caps": ALL, "planes": EVERY_PLANE}),
    );
    assert_eq!(error, Err(PlanError::EncryptionRequired));
}

#[test]
fn the_network_is_in_the_plan_if_the_plane_uses_it() {
    #[rustfmt::skip] // One row a line.
    let table = [
        ("secure", json!(ALL), "tls", json!("10.0.0.0/24")),
        ("secure", json!([]), "websocket", Value::Null),
        ("insecure", json!(["insecure-remote"]), "qemu", json!("10.0.0.0/24")),
        ("insecure", json!(["direct-tcp"]), "tcp", json!("10.0.0.0/24")),
    ];
    for (requested, caps, plane, network) in table {
        let plan = planned(
            json!({"migration_type": requested, "migration_network": "10.0.0.0/24",
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
fn the_clear_text_warning_names_the_data_and_the_network() {
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
fn a_plan_as_json_has_the_documented_members() {
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
fn plan_input_accepts_perl_values_and_refuses_unknown_keys() {
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
