//! The seam's schema: malformed requests of a source, and malformed answers of a listener.

use pve_tunnel::direct::message::{MAX_ADDRESSES, MAX_SOCKET_PATH};
use pve_tunnel::listener;
use pve_tunnel::seam::{Action, SeamInput, check_answer, decide};
use serde_json::{Value, json};

fn fingerprint() -> String {
    ["AB"; 32].join(":")
}

/// The action for a request of a user with every privilege.
fn action(direct: &Value) -> Result<Action, String> {
    let input = json!({"direct": direct, "file": "/f", "node": "pve7", "allowed": true,
        "listener": if direct["op"] == "open" { "none" } else { "running" }});
    let input: SeamInput = serde_json::from_value(input).unwrap();
    decide(b"", &input).map_err(|error| error.to_string())
}

/// A request to open a listener for `tls`, with these fields added or replaced.
fn open(other: Value) -> Value {
    let mut request = json!({"op": "open", "protocol": 1, "plane": "tls",
        "fingerprint": fingerprint()});
    for (name, value) in other.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

#[test]
fn a_request_without_an_operation_is_refused() {
    for direct in [json!(null), json!("hello"), json!([]), json!(1)] {
        assert_eq!(action(&direct).unwrap_err(), "'direct' is not an object");
    }
    for direct in [json!({}), json!({"op": null}), json!({"op": ["hello"]})] {
        assert_eq!(action(&direct).unwrap_err(), "'direct' has no 'op'");
    }
    let long = format!("stat\nfake: line\u{1b}{}", "x".repeat(500));
    for (name, shown) in [
        ("Hello", "Hello".to_owned()),
        ("", String::new()),
        (&long, format!("stat fake: line {}...", "x".repeat(48))),
    ] {
        let message = action(&json!({"op": name})).unwrap_err();
        assert!(
            message.starts_with(&format!("unknown operation '{shown}' (")),
            "{message}"
        );
    }
}

#[test]
fn a_malformed_field_is_named_without_its_value() {
    #[rustfmt::skip] // One row a line.
    let table = [
        ("protocol", vec![json!(0), json!(-1), json!("1x"), json!("01"), json!(1.5), json!(65536), json!([]), json!(true), json!(""), json!("1\n")]),
        ("plane", vec![json!("qemu"), json!("TLS"), json!(""), json!(["tls"]), json!(1)]),
        ("fingerprint", vec![json!(""), json!("AB"), json!("AB".repeat(31)), json!("AB".repeat(33)), json!(format!("{}\n", fingerprint())), json!("XY".repeat(32)), json!([fingerprint()])]),
        ("network", vec![json!(""), json!("a b"), json!("a\n"), json!("x".repeat(129)), json!(["lo"]), json!(true), json!("\u{200b}"), json!("\u{a0}x"), json!("\u{7}")]),
        ("dead_peer_timeout", vec![json!(0), json!("0.000"), json!(-1), json!(3601), json!("3600.001"), json!("1e3"), json!(".5"), json!("5."), json!("soon"), json!([]), json!(true)]),
    ];
    for (name, values) in table {
        for value in values {
            let message = action(&open(json!({ name: value }))).unwrap_err();
            assert_eq!(message, format!("open: '{name}' is malformed"), "{value}");
        }
    }
    for name in ["protocol", "plane", "fingerprint"] {
        let message = action(&open(json!({ name: null }))).unwrap_err();
        assert_eq!(message, format!("open: '{name}' is missing"));
    }
    let long = format!("/{}", "x".repeat(MAX_SOCKET_PATH));
    for path in [
        json!(""),
        json!("run/a"),
        json!("/run/\u{0}a"),
        json!(long),
        json!([]),
        json!(1),
    ] {
        let message = action(&json!({"op": "forward", "path": path})).unwrap_err();
        assert_eq!(message, "forward: 'path' is malformed", "{path}");
    }
    let message = action(&json!({"op": "hello"})).unwrap_err();
    assert_eq!(message, "hello: 'protocol' is missing");
}

#[test]
fn the_listener_accepts_the_options_of_every_form_of_a_request() {
    let plain = ["ab"; 32].concat();
    #[rustfmt::skip] // One row a line.
    let table = [
        (open(json!({})), 60.0),
        (open(json!({"fingerprint": plain, "dead_peer_timeout": "2.5"})), 2.5),
        (open(json!({"protocol": "1", "dead_peer_timeout": 3600, "network": null})), 3600.0),
        (open(json!({"plane": "tcp", "dead_peer_timeout": 1})), 1.0),
    ];
    for (request, seconds) in table {
        let Ok(Action::Listen { options }) = action(&request) else {
            panic!("{request} is not accepted");
        };
        let expected = match request["plane"] == "tls" {
            true => json!(fingerprint()),
            false => Value::Null,
        };
        assert_eq!(options["fingerprint"], expected, "{request}");
        let options: listener::Options = serde_json::from_value(options).unwrap();
        assert_eq!(options.plane.name(), request["plane"]);
        assert_eq!(options.dead_peer_timeout.as_secs_f64(), seconds);
        assert_eq!(options.handshake_timeout.as_secs(), 10);
    }
}

#[test]
fn the_result_of_a_check_may_be_any_boolean_of_perl() {
    let input = |allowed: Value| {
        json!({"direct": {"op": "hello", "protocol": 1}, "file": "/f", "node": "pve7",
            "allowed": allowed, "listener": "none"})
    };
    for (allowed, does) in [
        (json!(null), "check"),
        (json!(true), "reply"),
        (json!(1), "reply"),
        (json!(0), "reply"),
        (json!(""), "reply"),
    ] {
        let input: SeamInput = serde_json::from_value(input(allowed.clone())).unwrap();
        let action = serde_json::to_value(decide(b"", &input).unwrap()).unwrap();
        assert_eq!(action["do"], does, "{allowed}");
    }
    for allowed in [json!("yes"), json!(2), json!([])] {
        assert!(serde_json::from_value::<SeamInput>(input(allowed)).is_err());
    }
}

fn opened() -> Value {
    json!({"protocol": 1, "plane": "tls", "addresses": ["192.0.2.7", "fd00::7"], "port": 60007,
        "fingerprint": fingerprint(), "key": "c0".repeat(32)})
}

fn stat() -> Value {
    json!({"plane": "tls", "connections": 3, "half_open": 0,
        "forwards": [{"number": 1, "path": "/run/a", "connections": 2, "open": 1, "failed": 0,
            "received": 12_345_678_901_234_u64, "sent": 4}],
        "refused": {"tls": 1, "silent": 0, "malformed": 0, "key": 0, "number": 0, "crowded": 0,
            "socket": 0}})
}

#[test]
fn a_malformed_answer_is_named_without_its_value() {
    let null = Value::Null;
    let many: Vec<String> = (0..=MAX_ADDRESSES)
        .map(|last| format!("192.0.2.{last}"))
        .collect();
    #[rustfmt::skip] // One row a line.
    let table = [
        ("open", "protocol", json!("x"), "malformed"),
        ("open", "protocol", json!(0), "malformed"),
        ("open", "protocol", null.clone(), "missing"),
        ("open", "plane", json!("qemu"), "malformed"),
        ("open", "plane", null.clone(), "missing"),
        ("open", "addresses", json!([]), "malformed"),
        ("open", "addresses", json!("192.0.2.7"), "malformed"),
        ("open", "addresses", json!(["host"]), "malformed"),
        ("open", "addresses", json!(["1.2.3"]), "malformed"),
        ("open", "addresses", json!(["fe80::1%lo"]), "malformed"),
        ("open", "addresses", json!([null]), "malformed"),
        ("open", "addresses", json!(many), "malformed"),
        ("open", "port", json!(59_999), "malformed"),
        ("open", "port", json!(60_050), "malformed"),
        ("open", "port", json!(true), "malformed"),
        ("open", "fingerprint", json!("AB"), "malformed"),
        ("open", "fingerprint", null.clone(), "missing"),
        ("open", "key", json!("c0"), "malformed"),
        ("open", "key", json!("C0".repeat(32)), "malformed"),
        ("open", "key", json!("g0".repeat(32)), "malformed"),
        ("open", "key", json!(7), "malformed"),
        ("open", "key", null.clone(), "missing"),
        ("forward", "number", json!(0), "malformed"),
        ("forward", "number", json!(4_294_967_296_u64), "malformed"),
        ("forward", "number", null.clone(), "missing"),
        ("stat", "connections", null, "missing"),
        ("stat", "half_open", json!(0.5), "malformed"),
        ("stat", "refused", json!({"key": null}), "malformed"),
        ("stat", "forwards", json!([7]), "malformed"),
    ];
    for (operation, name, value, kind) in table {
        let mut answer = match operation {
            "open" => opened(),
            "forward" => json!({"number": 1}),
            _ => stat(),
        };
        assert!(check_answer(operation, &answer).is_ok(), "{operation}");
        answer[name] = value.clone();
        let error = check_answer(operation, &answer).unwrap_err();
        assert_eq!(error.to_string(), format!("'{name}' is {kind}"), "{value}");
    }
    for (name, value) in [
        ("sent", json!(-4)),
        ("number", json!("one")),
        ("number", json!(0)),
        ("path", json!("run/a")),
    ] {
        let mut answer = stat();
        answer["forwards"][0][name] = value;
        let error = check_answer("close", &answer).unwrap_err();
        assert_eq!(error.to_string(), "'forwards' is malformed", "{name}");
    }
    for answer in [json!(null), json!([]), json!("x")] {
        assert!(check_answer("stat", &answer).is_err());
    }
}
