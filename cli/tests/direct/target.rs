//! What a target says of its listener in other words than ours, and what it says after its listener
//! has died.

use serde_json::{Value, json};
use testing::namespace::{in_namespace, run};
use testing::seam::{NegotiatedTunnel, Seam, plane_request, plane_request_with};

const KINDS: [(&str, &str); 2] = [("secure", "tls"), ("insecure", "tcp")];

/// Every number of an answer as Perl writes it that was once a part of a text.
fn as_text(value: &mut Value) {
    match value {
        Value::Number(number) => *value = Value::String(number.to_string()),
        Value::Object(fields) => fields.values_mut().for_each(as_text),
        Value::Array(items) => items.iter_mut().for_each(as_text),
        _ => {}
    }
}

#[test]
fn numbers_may_be_text_both_ways() {
    for (kind, plane) in KINDS {
        let seam = Seam::scripted(|_, ours| {
            let mut answer = ours();
            as_text(&mut answer);
            answer
        });
        let limits = json!({ "dead_peer_timeout": "60", "dial_timeout": "5.5" });
        let mut tunnel =
            NegotiatedTunnel::on_plane(plane, seam, &plane_request_with(kind, &limits));
        tunnel.connector.forward(&tunnel.target, "/run/any");
        let (record, _) = tunnel.finish();
        assert_eq!(record["refused"]["key"], 0, "{record}");
    }
}

#[test]
fn a_listener_that_does_not_count_failures_is_closed_like_any_other() {
    let seam = Seam::scripted(|direct, ours| {
        let mut answer = ours();
        if direct["op"] == "close" {
            for forward in answer["direct"]["forwards"].as_array_mut().unwrap() {
                forward.as_object_mut().unwrap().remove("failed");
            }
        }
        answer
    });
    let mut tunnel = NegotiatedTunnel::on_plane("tls", seam, &plane_request("secure"));
    tunnel.connector.forward(&tunnel.target, "/run/any");
    let (record, ended) = tunnel.finish();
    assert_eq!(record["refused"]["tls"], 0, "{record}");
    assert!(!ended.log.contains("cannot be closed"), "{}", ended.log);
}

#[test]
fn what_is_withheld_is_told_of_what_is_known() {
    let seam = Seam::scripted(|direct, ours| {
        let mut answer = ours();
        if direct["op"] == "hello" {
            let many = (0..1000).map(|number| (format!("flood-{number}"), json!("x".repeat(99))));
            answer["direct"]["withheld"] = Value::Object(many.collect());
            answer["direct"]["withheld"]["direct-tcp"] = json!("not on Sundays");
        }
        answer
    });
    let tunnel = NegotiatedTunnel::on_plane("tls", seam, &plane_request("secure"));
    let (_, ended) = tunnel.finish();
    let told = "the target does not offer direct-tcp: not on Sundays";
    assert!(ended.log.contains(told), "{}", ended.log);
    assert!(!ended.log.contains("flood"), "{}", ended.log);
}

#[test]
fn an_interface_that_the_call_names_is_this_nodes_too() {
    in_namespace(|| {
        run("ip link add mig0 type veth peer name mig1");
        run("ip link set mig1 up");
        run("ip link set mig0 up");
        run("ip addr add 10.77.0.7/24 dev mig0");
        run("ip route add 10.88.0.0/24 via 10.77.0.1 dev mig0");
        let seam = Seam::scripted(|direct, ours| match direct["op"].as_str() {
            Some("open") => json!({ "success": 1, "direct": {
                "protocol": 1, "plane": "tcp", "addresses": ["10.88.0.9"], "port": 60_000,
                "key": "5e".repeat(32),
            } }),
            _ => ours(),
        });
        let named = json!({
            "migration_network": "mig0", "network": "mig0", "source_network": "mig0",
            "dial_timeout": 1,
        });
        let tunnel = NegotiatedTunnel::negotiate(seam, &plane_request_with("insecure", &named));
        let told = tunnel.answer["msg"].as_str().unwrap();
        assert!(
            told.contains(
                "10.88.0.9 is refused: it is not in a network of this node's interface 'mig0'"
            ),
            "{told}"
        );
    });
}

/// A stream that ends with the listener looks complete to a program that only reads, and the source's
/// caller asks the worker alone.
#[test]
fn no_import_is_complete_after_the_listener_has_died() {
    for (kind, plane) in KINDS {
        let mut tunnel = NegotiatedTunnel::on_plane(plane, Seam::default(), &plane_request(kind));
        let question = json!({ "cmd": "query-disk-import" });
        let asked = |seam: &Seam| {
            let said = seam.received();
            said.iter()
                .filter(|word| *word == "query-disk-import")
                .count()
        };
        let before = tunnel.connector.request(&question);
        assert_eq!(asked(&tunnel.seam), 1, "{before}");

        tunnel.seam.take_listener().end().0.unwrap();
        let mut told = Value::Null;
        testing::wait_until("the death is known", || {
            told = tunnel.connector.request(&question);
            told["msg"].as_str().is_some_and(|msg| msg.contains("dead"))
        });
        assert_eq!(told["success"], false, "{told}");
        let before = asked(&tunnel.seam);
        tunnel.connector.request(&question);
        assert_eq!(asked(&tunnel.seam), before, "the worker is not asked");
        // Everything else goes on: the caller has to clean up.
        let version = tunnel.connector.request(&json!({ "cmd": "version" }));
        assert_eq!(version["api"], 2, "{version}");
    }
}
