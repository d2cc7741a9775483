//! The seam's decisions: each operation, each refusal, and each check of a listener's answer.

use pve_tunnel::seam::{SeamInput, check_answer, decide};
use serde_json::{Value, json};

const PIN: &str = "AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB";

const NETWORKS: &str = "network: clear\n source 10.9.0.0/24\n allow insecure,secure\n public 1\n congestion cubic\n buffer 64K\n threads 3\n\nnetwork: closed\n source 10.8.0.0/24\n";

/// The decision as JSON, or the refusal. `changes` replace members of a minimal input.
fn decision(configuration: &str, direct: Value, changes: Value) -> Result<Value, String> {
    let mut input = json!({
        "direct": direct, "file": "/etc/x.cfg", "node": "pve7", "listener": "none",
        "sockets": ["/run/a"],
    });
    for (name, value) in changes.as_object().unwrap() {
        input[name] = value.clone();
    }
    let input: SeamInput = serde_json::from_value(input).unwrap();
    decide(configuration.as_bytes(), &input)
        .map(|action| serde_json::to_value(action).unwrap())
        .map_err(|error| error.to_string())
}

fn open(changes: Value) -> Value {
    let mut request = json!({ "op": "open", "protocol": 1, "plane": "tls", "fingerprint": PIN });
    for (name, value) in changes.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

fn check() -> Value {
    json!({ "do": "check", "path": "/", "privilege": "Sys.Modify" })
}

#[test]
fn the_options_of_a_listener_come_from_request_and_configuration() {
    let action = decision(
        NETWORKS,
        open(json!({ "network": "clear", "dead_peer_timeout": "2.5" })),
        json!({}),
    );
    let options = json!({
        "plane": "tls", "protocol": 1, "network": "10.9.0.0/24", "node": "pve7", "fingerprint": PIN,
        "public": true, "hello_timeout": 10, "dead_peer_timeout": 2.5,
        "congestion": "cubic", "buffer": 65536, "threads": 3, "user": null,
    });
    assert_eq!(
        action.unwrap(),
        json!({ "do": "listen", "options": options })
    );
    let plain = decision("", open(json!({})), json!({})).unwrap();
    assert_eq!(plain["options"]["network"], Value::Null);
    assert_eq!(plain["options"]["dead_peer_timeout"], 60.0);
    assert_eq!(plain["options"]["congestion"], "auto");
    assert_eq!(plain["options"]["buffer"], "auto");
    let changes = json!({ "user": "move@pve!token", "allowed": true });
    let named = decision("", open(json!({ "network": "büro☺" })), changes).unwrap();
    assert_eq!(named["options"]["network"], "büro☺");
    assert_eq!(named["options"]["user"], "move@pve!token");
}

#[test]
fn clear_text_and_an_unconfigured_network_need_a_privilege() {
    let tcp = json!({ "op": "open", "protocol": "1", "plane": "tcp" });
    let on = |network: &str| {
        let mut request = tcp.clone();
        request["network"] = network.into();
        request
    };
    #[rustfmt::skip] // One row a line.
    let table = [
        (tcp.clone(), true, "clear text is refused: "),
        (on("10.7.0.0/24"), true, "clear text is refused: "),
        (on("clear"), false, ""),
        (open(json!({ "network": "10.7.0.0/24" })), true, "migration network '10.7.0.0/24' is refused: "),
        (open(json!({ "network": "eth1" })), true, "migration network 'eth1' is refused: "),
        (open(json!({ "network": "closed" })), false, ""),
        (open(json!({})), false, ""),
    ];
    for (request, needed, refusal) in table {
        let first = decision(NETWORKS, request.clone(), json!({})).unwrap();
        assert_eq!(first == check(), needed, "{request}");
        let allowed = decision(NETWORKS, request.clone(), json!({ "allowed": true })).unwrap();
        assert_eq!(allowed["do"], "listen", "{request}");
        let refused = decision(NETWORKS, request.clone(), json!({ "allowed": false }));
        assert_eq!(refused.is_err(), needed, "{request}");
        if let Err(message) = refused {
            assert_eq!(
                message,
                format!(
                    "{refusal}the user of this tunnel lacks Sys.Modify on '/'; the ID of a configured network needs none"
                )
            );
        }
    }
    let named = json!({ "allowed": false, "user": "move@pve" });
    let message = decision("", tcp, named).unwrap_err();
    assert!(message.contains("user 'move@pve' lacks"), "{message}");
}

#[test]
fn hello_offers_what_configuration_and_privileges_allow() {
    let hello = json!({ "op": "hello", "protocol": 7, "version": "9.9", "new": {} });
    let policy = "policy: cluster\n require-encryption 1\n";
    #[rustfmt::skip] // One row a line.
    let table = [
        ("", json!({}), None, ""),
        ("", json!({ "allowed": true }), Some(vec!["direct-tls", "direct-tcp"]), ""),
        ("", json!({ "allowed": false }), Some(vec!["direct-tls"]), "the user of this tunnel lacks Sys.Modify on '/', and no network in /etc/x.cfg allows clear text"),
        (NETWORKS, json!({ "allowed": false }), Some(vec!["direct-tls", "direct-tcp"]), ""),
        (policy, json!({}), Some(vec!["direct-tls"]), "/etc/x.cfg of this node requires encryption"),
        ("nonsense\n", json!({}), Some(vec![]), "/etc/x.cfg, line 1: 'nonsense'"),
        ("", json!({ "unreadable": "cannot read it\n" }), Some(vec![]), "cannot read it"),
    ];
    for (configuration, changes, caps, reason) in table {
        let action = decision(configuration, hello.clone(), changes).unwrap();
        let Some(caps) = caps else {
            assert_eq!(action, check());
            continue;
        };
        let reply = &action["reply"];
        assert_eq!(reply["caps"], json!(caps), "{configuration}");
        assert_eq!(reply["protocol"], 2);
        assert_eq!(reply["oldest"], 1);
        assert_eq!(reply["version"], env!("CARGO_PKG_VERSION"));
        for (name, withheld) in reply["withheld"].as_object().unwrap() {
            assert!(!caps.contains(&name.as_str()));
            assert!(withheld.as_str().unwrap().starts_with(reason), "{withheld}");
        }
        assert_eq!(reply["withheld"].as_object().unwrap().len(), 2 - caps.len());
        // A source of this version does not migrate at all. An older one ignores the member.
        match caps.as_slice() {
            [] => assert!(reply["misconfigured"].as_str().unwrap().contains(reason)),
            _ => assert_eq!(reply.get("misconfigured"), None),
        }
    }
}

#[test]
fn forward_stat_and_close_need_a_listener() {
    let forward = json!({ "op": "forward", "path": "/run/a" });
    for (request, action) in [
        (&forward, json!({ "do": "ask", "request": forward })),
        (
            &json!({ "op": "stat" }),
            json!({ "do": "ask", "request": { "op": "stat" } }),
        ),
        (&json!({ "op": "close" }), json!({ "do": "close" })),
    ] {
        let none = decision("", request.clone(), json!({})).unwrap_err();
        let operation = request["op"].as_str().unwrap();
        assert_eq!(none, format!("{operation}: no listener is open"));
        for listener in ["running", "ended"] {
            let changes = json!({ "listener": listener });
            assert_eq!(decision("", request.clone(), changes).unwrap(), action);
        }
    }
}

#[test]
fn a_refusal_names_its_cause() {
    let running = json!({ "listener": "running" });
    let policy = "policy: cluster\n require-encryption 1\n";
    #[rustfmt::skip] // One row a line.
    let table = [
        ("", json!(null), json!({}), "'direct' is not an object"),
        ("", json!([]), json!({}), "'direct' is not an object"),
        ("", json!({}), json!({}), "'direct' has no 'op'"),
        ("", json!({ "op": ["hello"] }), json!({}), "'direct' has no 'op'"),
        ("", json!({ "op": "Hello" }), json!({}), "unknown operation 'Hello' (expected one of: hello, open, forward, stat, meter, close)"),
        ("", json!({ "op": "hello" }), json!({}), "hello: 'protocol' is missing"),
        ("", json!({ "op": "hello", "protocol": true }), json!({}), "hello: 'protocol' is malformed"),
        ("", json!({ "op": "hello", "protocol": 0 }), json!({}), "hello: 'protocol' is malformed"),
        ("", json!({ "op": "hello", "protocol": "01" }), json!({}), "hello: 'protocol' is malformed"),
        ("", json!({ "op": "hello", "protocol": 65536 }), json!({}), "hello: 'protocol' is malformed"),
        ("", open(json!({ "protocol": 3 })), json!({}), "protocol 3 is not supported, only 1 to 2"),
        ("", open(json!({ "plane": "qemu" })), json!({}), "open: 'plane' is malformed"),
        ("", open(json!({ "fingerprint": null })), json!({}), "open: 'fingerprint' is missing"),
        ("", open(json!({ "fingerprint": format!("{PIN}\n") })), json!({}), "open: 'fingerprint' is malformed"),
        ("", open(json!({ "network": "a b" })), json!({}), "open: 'network' is malformed"),
        ("", open(json!({ "network": "x".repeat(129) })), json!({}), "open: 'network' is malformed"),
        ("", open(json!({ "dead_peer_timeout": 0 })), json!({}), "open: 'dead_peer_timeout' is malformed"),
        ("", open(json!({ "dead_peer_timeout": 3601 })), json!({}), "open: 'dead_peer_timeout' is malformed"),
        ("", open(json!({})), running.clone(), "a listener is already open"),
        ("", open(json!({})), json!({ "node": "" }), "the name of this node is malformed"),
        ("", open(json!({})), json!({ "unreadable": "cannot read it" }), "cannot read it"),
        (policy, json!({ "op": "open", "protocol": 1, "plane": "tcp" }), json!({ "allowed": true }), "requires encryption"),
        (NETWORKS, json!({ "op": "open", "protocol": 1, "plane": "tcp", "network": "closed" }), json!({}), "'closed' does not allow"),
        ("nonsense\n", open(json!({})), json!({}), "/etc/x.cfg, line 1: 'nonsense'"),
        ("", json!({ "op": "forward", "path": "/run/b" }), running.clone(), "socket '/run/b' is not known here"),
        ("", json!({ "op": "forward", "path": "run/a" }), running.clone(), "forward: 'path' is malformed"),
        ("", json!({ "op": "forward", "path": "/run/\0a" }), running.clone(), "forward: 'path' is malformed"),
        ("", json!({ "op": "forward", "path": format!("/{}", "x".repeat(107)) }), running, "forward: 'path' is malformed"),
    ];
    for (configuration, request, changes, expected) in table {
        let message = decision(configuration, request.clone(), changes).unwrap_err();
        assert!(message.contains(expected), "{request}: {message}");
    }
}

#[test]
fn answers_of_the_listener_lose_unknown_members_and_keep_the_known_ones() {
    let key = "c0".repeat(32);
    let open = json!({
        "protocol": 1, "plane": "tls", "addresses": ["192.0.2.7", "fd00::7"], "port": 60007,
        "fingerprint": PIN, "key": key,
    });
    let refused = json!({
        "tls": 1, "silent": 0, "malformed": 0, "key": 0, "number": 0, "crowded": 0, "socket": 0,
    });
    let forward = json!({
        "number": 1, "path": "/run/a", "connections": 2, "open": 1, "received": 3, "sent": 4,
    });
    let stat = json!({
        "plane": "tcp", "connections": 3, "half_open": 0, "forwards": [forward], "refused": refused,
    });
    let behind_api = json!({
        "protocol": 2, "plane": "websocket", "path": "/run/a.lanes", "key": key,
    });
    for (operation, answer) in [
        ("open", &open),
        ("open", &behind_api),
        ("forward", &json!({ "number": 1 })),
        ("stat", &stat),
        ("close", &stat),
    ] {
        let mut more = answer.clone();
        more["new"] = json!(1);
        assert_eq!(check_answer(operation, &more).as_ref(), Ok(answer));
    }
    // Members of newer listeners.
    for echo in [true, false] {
        let mut newer = open.clone();
        newer["echo"] = json!(echo);
        assert_eq!(check_answer("open", &newer), Ok(newer));
    }
    let mut newer = stat.clone();
    newer["refused"]["heartbeat"] = json!(3);
    assert_eq!(check_answer("stat", &newer), Ok(newer));
    #[rustfmt::skip] // One row a line.
    let table = [
        ("open", &open, "addresses", json!([]), "'addresses' is malformed"),
        ("open", &open, "addresses", json!(vec!["10.0.0.1"; 17]), "'addresses' is malformed"),
        ("open", &open, "addresses", json!(["fe80::1%lo"]), "'addresses' is malformed"),
        ("open", &open, "port", json!(60050), "'port' is malformed"),
        ("open", &open, "echo", json!("perhaps"), "'echo' is malformed"),
        ("open", &open, "key", json!(key.to_uppercase()), "'key' is malformed"),
        ("open", &open, "fingerprint", json!(null), "'fingerprint' is missing"),
        ("open", &behind_api, "path", json!("a.lanes"), "'path' is malformed"),
        ("open", &behind_api, "path", json!(null), "'path' is missing"),
        ("forward", &open, "number", json!(0), "'number' is malformed"),
        ("stat", &stat, "half_open", json!(0.5), "'half_open' is malformed"),
        ("stat", &stat, "forwards", json!([7]), "'forwards' is malformed"),
        ("stat", &stat, "refused", json!({ "tls": 1 }), "'refused' is malformed"),
        ("close", &stat, "connections", json!(null), "'connections' is missing"),
    ];
    for (operation, answer, member, value, expected) in table {
        let mut wrong = answer.clone();
        wrong[member] = value;
        let message = check_answer(operation, &wrong).unwrap_err().to_string();
        assert_eq!(message, expected);
        assert!(!message.contains("c0c0"), "no message contains the key");
    }
}

#[test]
fn a_listener_of_lanes_through_the_api_is_beside_the_socket_of_its_worker() {
    let open = json!({ "op": "open", "protocol": 2, "plane": "websocket", "dead_peer_timeout": 9 });
    let own = json!({ "socket": "/run/qemu-server/100.mtunnel", "user": "root@pam" });
    // A configuration that forbids clear text, and a user without a privilege, make no difference.
    for configuration in ["", "policy: cluster\n require-encryption 1\n"] {
        let action = decision(configuration, open.clone(), own.clone()).unwrap();
        assert_eq!(action["do"], "listen", "{action}");
        let options = &action["options"];
        for (name, expected) in [
            ("plane", json!("websocket")),
            ("protocol", json!(2)),
            ("path", json!("/run/qemu-server/100.mtunnel.lanes")),
            ("dead_peer_timeout", json!(9.0)),
            ("user", json!("root@pam")),
            ("network", json!(null)),
        ] {
            assert_eq!(options[name], expected, "{name}");
        }
    }
    let mut oldest = open.clone();
    oldest["protocol"] = 1.into();
    let refusal = decision("", oldest, own).unwrap_err();
    assert_eq!(refusal, "open: plane 'websocket' needs protocol 2");
    for socket in [Value::Null, json!(format!("/{}", "x".repeat(110)))] {
        let refusal = decision("", open.clone(), json!({ "socket": socket })).unwrap_err();
        assert!(
            refusal.starts_with("open: ") && refusal.contains("no other path of at most 107 bytes"),
            "{refusal}"
        );
    }
}

#[test]
fn a_meter_listens_beside_the_socket_of_its_worker() {
    let meter = json!({ "op": "meter" });
    let own = json!({ "socket": "/run/qemu-server/100.mtunnel" });
    let action = decision("", meter.clone(), own.clone()).unwrap();
    assert_eq!(action["do"], "meter");
    assert_eq!(
        action["options"],
        json!({
            "path": "/run/qemu-server/100.mtunnel.meter",
            "seconds": 300,
            "measurement_seconds": 30,
            "measurement_bytes": 64_u64 << 30,
        })
    );
    let mut running = own.clone();
    running["meter"] = "running".into();
    assert_eq!(decision("", meter.clone(), running), Ok(action));

    let mut ended = own;
    ended["meter"] = "ended".into();
    let refusal = decision("", meter.clone(), ended).unwrap_err();
    assert!(refusal.contains("has ended"), "{refusal}");
    let long = "x".repeat(110);
    for socket in [Value::Null, json!("relative"), json!(format!("/{long}"))] {
        let refusal = decision("", meter.clone(), json!({ "socket": socket })).unwrap_err();
        assert!(
            refusal.contains("no other path of at most 107 bytes"),
            "{refusal}"
        );
    }
}
