//! Version replies and capabilities, with a row for each kind of malformed input.

use pve_tunnel::capability::{
    Capabilities, Capability, CapabilityError, MAX_CAPS, VersionReply, parse_version,
};
use pve_tunnel::plan::{PlanInput, plan};
use serde_json::{Value, json};

fn version(reply: Value) -> Result<Value, String> {
    parse_version(&reply.to_string())
        .map(|version| serde_json::to_value(version).unwrap())
        .map_err(|error| error.to_string())
}

#[test]
fn a_version_reply_keeps_known_and_unknown_names() {
    #[rustfmt::skip] // One row a line.
    let table = [
        ("old target: caps absent", json!({"success": 1, "api": 2, "age": 0}),
            json!({"api": 2, "age": 0, "caps": [], "unknown": []})),
        ("new target",
            json!({"success": 1, "api": 2, "age": 0, "caps": ["insecure-remote", "direct-tls", "direct-tcp"]}),
            json!({"api": 2, "age": 0, "caps": ["insecure-remote", "direct-tls", "direct-tcp"], "unknown": []})),
        ("empty caps", json!({"success": 1, "api": 2, "age": 0, "caps": []}),
            json!({"api": 2, "age": 0, "caps": [], "unknown": []})),
        ("unknown names are kept", json!({"success": 1, "api": 2, "age": 0, "caps": ["x-y", "direct-tls", "9"]}),
            json!({"api": 2, "age": 0, "caps": ["direct-tls"], "unknown": ["x-y", "9"]})),
        ("duplicates become one",
            json!({"success": 1, "api": 2, "age": 0, "caps": ["x", "direct-tcp", "x", "direct-tcp"]}),
            json!({"api": 2, "age": 0, "caps": ["direct-tcp"], "unknown": ["x"]})),
        ("numbers that Perl used as strings", json!({"success": "1", "api": "2", "age": "0"}),
            json!({"api": 2, "age": 0, "caps": [], "unknown": []})),
        ("success as a boolean, and keys of a newer target",
            json!({"success": true, "api": 3, "age": 1, "later": {"a": []}}),
            json!({"api": 3, "age": 1, "caps": [], "unknown": []})),
        ("success left out", json!({"api": 2, "age": 0}), json!({"api": 2, "age": 0, "caps": [], "unknown": []})),
        ("a name of exactly 64 characters", json!({"api": 2, "age": 0, "caps": ["a".repeat(64)]}),
            json!({"api": 2, "age": 0, "caps": [], "unknown": ["a".repeat(64)]})),
    ];
    for (name, reply, expected) in table {
        assert_eq!(version(reply), Ok(expected), "{name}");
    }
}

#[test]
fn sixty_four_names_are_accepted_and_sixty_five_are_refused() {
    let names = |count: usize| (0..count).map(|n| format!("cap-{n}")).collect::<Vec<_>>();
    let reply = |count| json!({"api": 2, "age": 0, "caps": names(count)}).to_string();
    let accepted = parse_version(&reply(MAX_CAPS)).unwrap();
    assert_eq!(accepted.capabilities.unknown.len(), 64);
    assert_eq!(
        parse_version(&reply(MAX_CAPS + 1)),
        Err(CapabilityError::TooManyCaps { count: 65 })
    );
    // Duplicates count, because the limit applies to the list as received.
    let same = json!({"api": 2, "age": 0, "caps": vec!["x"; 65]}).to_string();
    assert_eq!(
        parse_version(&same),
        Err(CapabilityError::TooManyCaps { count: 65 })
    );
}

#[test]
fn malformed_version_replies_are_refused_with_a_reason() {
    let base = |key: &str, value: Value| {
        let mut reply = json!({"success": 1, "api": 2, "age": 0});
        reply[key] = value;
        reply
    };
    #[rustfmt::skip] // One row a line.
    let table = [
        ("an array", json!([1]), "is an array, expected an object"),
        ("null", Value::Null, "is null, expected an object"),
        ("no api", json!({"success": 1, "age": 0}), "has no 'api'"),
        ("no age", json!({"success": 1, "api": 2}), "has no 'age'"),
        ("api null", base("api", Value::Null), "'api' in the target's version reply is null"),
        ("api negative", base("api", json!(-2)), "is -2, expected a decimal number"),
        ("api fraction", base("api", json!(2.5)), "is 2.5, expected"),
        ("api as a whole float", base("api", json!(2.0)), "is 2.0, expected"),
        ("api with a leading zero", base("api", json!("02")), "is '02', expected"),
        ("api with a space", base("api", json!(" 2")), "expected a decimal number"),
        ("api with a sign", base("api", json!("+2")), "is '+2', expected"),
        ("api empty", base("api", json!("")), "is '', expected"),
        ("api beyond 32 bits", base("api", json!(4_294_967_296_u64)), "is 4294967296, expected"),
        ("api beyond 64 bits", base("api", json!("99999999999999999999")), "expected a decimal"),
        ("age an array", base("age", json!([])), "'age' in the target's version reply is an array"),
        ("caps null", base("caps", Value::Null), "'caps' of the target is null, expected an array"),
        ("caps a string", base("caps", json!("direct-tls")), "is a string, expected an array"),
        ("caps an object", base("caps", json!({"direct-tls": 1})), "is an object, expected an array"),
        ("caps with a number", base("caps", json!(["x", 7])), "entry 1 of the target's 'caps' is a number"),
        ("caps with null", base("caps", json!([null])), "entry 0 of the target's 'caps' is null"),
        ("caps nested", base("caps", json!([["direct-tls"]])), "entry 0 of the target's 'caps' is an array"),
        ("an empty name", base("caps", json!([""])), "entry 0 of the target's 'caps', '', is empty"),
        ("65 characters", base("caps", json!(["a".repeat(65)])), "is longer than 64 characters"),
        ("upper case", base("caps", json!(["Direct-TLS"])), "'Direct-TLS', has characters other than"),
        ("underscore", base("caps", json!(["direct_tls"])), "has characters other than"),
        ("space", base("caps", json!(["direct-tls "])), "has characters other than"),
        ("not ASCII", base("caps", json!(["direct-tlś"])), "has characters other than"),
        ("a newline", base("caps", json!(["x\ny"])), "'x\\ny', has characters other than"),
    ];
    for (name, reply, expected) in table {
        let error = version(reply).expect_err(name);
        assert!(error.contains(expected), "{name}: {error}");
        assert!(!error.contains('\n'), "{name}: {error}");
    }
    for text in ["", "success", "{\"api\":2,"] {
        let error = parse_version(text).unwrap_err().to_string();
        assert!(error.contains("is not JSON"), "{error}");
    }
}

#[test]
fn the_message_of_a_target_that_refuses_is_quoted_on_one_line() {
    #[rustfmt::skip] // One row a line.
    let table = [
        (json!({"success": 0, "msg": "no\nsuch\u{1b} command\n"}), "no such  command"),
        (json!({"success": false, "msg": "locked"}), "locked"),
        (json!({"success": "", "msg": "locked"}), "locked"),
        (json!({"success": "0"}), "no reason given"),
        (json!({"success": null, "msg": 7, "api": 2, "age": 0}), "no reason given"),
    ];
    for (reply, expected) in table {
        assert_eq!(
            parse_version(&reply.to_string()),
            Err(CapabilityError::Refused {
                message: expected.to_owned()
            })
        );
    }
    let long = json!({"success": 0, "msg": "x".repeat(100_000)}).to_string();
    assert!(parse_version(&long).unwrap_err().to_string().len() < 1000);
}

#[test]
fn the_version_window_names_the_node_to_upgrade() {
    // The target's api and age, this node's version, and the node to upgrade in the error.
    #[rustfmt::skip] // One row a line.
    let table = [
        (2, 0, 2, None),
        (3, 1, 2, None),
        (5, 3, 2, None),
        (2, 5, 2, None),
        (3, 0, 2, Some("versions 3 to 3, this node supports 2: upgrade this node")),
        (9, 6, 2, Some("versions 3 to 9, this node supports 2: upgrade this node")),
        (1, 0, 2, Some("up to 1, this node supports 2: upgrade the target node")),
        (1, 1, 2, Some("up to 1, this node supports 2: upgrade the target node")),
        (0, 0, 2, Some("up to 0, this node supports 2: upgrade the target node")),
        (2, 0, 3, Some("up to 2, this node supports 3: upgrade the target node")),
    ];
    for (api, age, own, expected) in table {
        let reply = VersionReply {
            api,
            age,
            capabilities: Capabilities::default(),
        };
        let verdict = reply.check_window(own).map_err(|error| error.to_string());
        match (verdict, expected) {
            (Ok(()), None) => {}
            (Err(error), Some(expected)) => assert!(error.contains(expected), "{error}"),
            (verdict, _) => panic!("api {api} age {age} own {own}: {verdict:?}"),
        }
    }
    // parse_version checks the window for the version of this software.
    let error = version(json!({"success": 1, "api": 1, "age": 0})).unwrap_err();
    assert!(error.contains("upgrade the target node"), "{error}");
    let error = version(json!({"success": 1, "api": 4, "age": 1})).unwrap_err();
    assert!(error.contains("upgrade this node"), "{error}");
}

#[test]
fn two_lists_merge_into_one_without_duplicates() {
    let reply = Capabilities::from_names(&["insecure-remote", "x"]).unwrap();
    let offer = Capabilities::from_names(&["direct-tls", "y", "insecure-remote", "x"]).unwrap();
    let both = reply.merge(&offer);
    assert_eq!(
        both.caps,
        [Capability::InsecureRemote, Capability::DirectTls]
    );
    assert_eq!(both.unknown, ["x", "y"]);
    assert_eq!(both.names(), ["insecure-remote", "direct-tls", "x", "y"]);
    assert_eq!(reply.merge(&Capabilities::default()), reply);
    assert_eq!(Capabilities::default().merge(&reply), reply);
    assert!(both.has(Capability::DirectTls) && !both.has(Capability::DirectTcp));
    // A plan accepts the merged names.
    let input = PlanInput {
        caps: both.names().into_iter().map(str::to_owned).collect(),
        ..PlanInput::default()
    };
    assert!(plan(&input).is_ok());
}
