//! Answers of a target that differ in form from those of this version, and answers after its
//! listener has died.

use serde_json::{Value, json};
use testing::namespace::{in_namespace, run};
use testing::seam::{NegotiatedTunnel, Seam, plane_request, plane_request_with};

const KINDS: [(&str, &str); 2] = [("secure", "tls"), ("insecure", "tcp")];

/// Replaces every number with a string, as Perl does for numbers that were used as strings.
fn numbers_to_strings(value: &mut Value) {
    match value {
        Value::Number(number) => *value = Value::String(number.to_string()),
        Value::Object(fields) => fields.values_mut().for_each(numbers_to_strings),
        Value::Array(items) => items.iter_mut().for_each(numbers_to_strings),
        _ => {}
    }
}

#[test]
fn numbers_may_be_strings_in_requests_and_answers() {
    for (kind, plane) in KINDS {
        let seam = Seam::scripted(|_, ours| {
            let mut answer = ours();
            numbers_to_strings(&mut answer);
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
fn a_listener_without_a_counter_of_failures_is_closed() {
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
fn the_plan_has_the_reason_for_which_the_target_withholds_direct_tls() {
    let seam = Seam::scripted(|direct, ours| {
        let mut answer = ours();
        if direct["op"] == "hello" {
            let many = (0..1000).map(|number| (format!("flood-{number}"), json!("x".repeat(99))));
            answer["direct"]["withheld"] = Value::Object(many.collect());
            answer["direct"]["caps"] = json!([]);
            answer["direct"]["withheld"]["direct-tls"] = json!("disabled by the administrator");
        }
        answer
    });
    let tunnel = NegotiatedTunnel::negotiate(seam, &plane_request("secure"));
    assert_eq!(
        tunnel.answer["plan"]["reason"],
        "secure was requested, and the target withholds direct TLS: disabled by the administrator",
        "{}",
        tunnel.answer
    );
    let (_, ended) = tunnel.finish();
    assert!(!ended.log.contains("does not offer"), "{}", ended.log);
    assert!(!ended.log.contains("flood"), "{}", ended.log);
}

#[test]
fn an_interface_in_a_call_applies_to_this_node_as_well() {
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
        let message = tunnel.answer["msg"].as_str().unwrap();
        assert!(
            message.contains(
                "10.88.0.9 is refused: it is not in a network of this node's interface 'mig0'"
            ),
            "{message}"
        );
    });
}

/// A stream that ends with the death of the listener looks complete to a program that only reads,
/// and the source's caller requests the state from the worker only.
#[test]
fn an_import_is_not_complete_after_the_listener_has_died() {
    for (kind, plane) in KINDS {
        let mut tunnel = NegotiatedTunnel::on_plane(plane, Seam::default(), &plane_request(kind));
        let query = json!({ "cmd": "query-disk-import" });
        let queries = |seam: &Seam| {
            let requests = seam.received();
            requests
                .iter()
                .filter(|word| *word == "query-disk-import")
                .count()
        };
        let before = tunnel.connector.request(&query);
        assert_eq!(queries(&tunnel.seam), 1, "{before}");

        tunnel.seam.take_listener().end().0.unwrap();
        let mut answer = Value::Null;
        testing::wait_until("the connector reports the dead listener", || {
            answer = tunnel.connector.request(&query);
            answer["msg"]
                .as_str()
                .is_some_and(|msg| msg.contains("dead"))
        });
        assert_eq!(answer["success"], false, "{answer}");
        // The worker learns the volume of an import from a query, and its clean-up needs that.
        let before = queries(&tunnel.seam);
        tunnel.connector.request(&query);
        assert_eq!(queries(&tunnel.seam), before + 1);
        // Other requests are still answered, because the caller has to clean up.
        let version = tunnel.connector.request(&json!({ "cmd": "version" }));
        assert_eq!(version["api"], 2, "{version}");
    }
}
