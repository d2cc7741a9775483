//! Targets of other versions: older, newer, without a seam, and with malformed answers.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use testing::seam::{NegotiatedTunnel, Seam, plane_request, plane_request_with, program};

/// A seam with this answer to `hello`.
fn answering_hello(answer: Value) -> Seam {
    Seam::scripted(move |direct, ours| match direct["op"].as_str() {
        Some("hello") => answer.clone(),
        _ => ours(),
    })
}

/// A seam with this offer.
fn offering(hello: Value) -> Seam {
    answering_hello(json!({ "success": 1, "direct": hello }))
}

fn assert_forward_works(tunnel: &mut NegotiatedTunnel) {
    let path = program(tunnel.directory.path(), |mut stream| {
        let mut data = [0; 5];
        stream.read_exact(&mut data).unwrap();
        stream.write_all(&data).unwrap();
    });
    let mut local = tunnel.open(&path);
    local.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    local.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
}

/// Requires that there is no direct plane: `secure` uses the websocket, `insecure` is an error, and
/// no operation but `hello` was requested. The log has to contain this text.
fn assert_no_direct_plane(what: &str, answer: impl Fn() -> Seam, words: &str) {
    for kind in ["secure", "insecure"] {
        let seam = answer();
        let mut tunnel = NegotiatedTunnel::negotiate(seam.clone(), &plane_request(kind));
        let result = tunnel.answer.clone();
        assert_eq!(seam.received(), ["version", "hello"], "{what}");
        if kind == "secure" {
            assert_eq!(result["success"], true, "{what}: {result}");
            assert_eq!(result["plan"]["plane"], "websocket", "{what}: {result}");
            assert_eq!(result["direct"], Value::Null, "{what}: {result}");
            assert_forward_works(&mut tunnel);
        } else {
            assert_eq!(result["success"], false, "{what}: {result}");
            let message = result["msg"].as_str().unwrap();
            assert!(message.contains("upgrade the target node"), "{message}");
            assert!(
                message.contains("omit migration_type=insecure"),
                "{message}"
            );
        }
        let log = tunnel.connector.finish().log;
        assert!(log.contains(words), "{what}: {log}");
    }
}

/// Requires both direct planes, with this protocol.
fn assert_both_planes(hello: Value, protocol: u16) {
    for (kind, plane) in [("secure", "tls"), ("insecure", "tcp")] {
        let seam = offering(hello.clone());
        let mut tunnel = NegotiatedTunnel::on_plane(plane, seam.clone(), &plane_request(kind));
        assert_eq!(tunnel.answer["direct"]["protocol"], protocol);
        let open = &seam.requests("open")[0];
        assert_eq!(open["protocol"], protocol, "{hello}");
        // The protocol requires an integer, and not every JSON parser accepts 60.0 as one.
        assert_eq!(open["dead_peer_timeout"].as_u64(), Some(60), "{open}");
        assert_forward_works(&mut tunnel);
    }
}

const CAPS: [&str; 2] = ["direct-tls", "direct-tcp"];

#[test]
fn a_newer_target_that_supports_our_protocol_is_used() {
    assert_both_planes(
        json!({
            "protocol": 7, "oldest": 1, "caps": ["direct-quic", "direct-tls", "direct-tcp"],
            "withheld": { "direct-quic": "no such thing here" }, "version": "12.0.1",
            "compression": { "zstd": [1, 2] }, "nonsense": null,
        }),
        1,
    );
}

#[test]
fn a_minimal_offer_is_sufficient() {
    assert_both_planes(json!({ "protocol": 1, "caps": CAPS }), 1);
}

#[test]
fn a_target_without_the_oldest_protocol_gets_the_next_one() {
    assert_both_planes(json!({ "protocol": 7, "oldest": 2, "caps": CAPS }), 2);
}

#[test]
fn a_target_without_a_common_protocol_has_no_direct_plane() {
    let newer = || offering(json!({ "protocol": 7, "oldest": 3, "caps": CAPS }));
    assert_no_direct_plane(
        "newer",
        newer,
        "supports direct protocols 3 to 7, this node 1 to 2",
    );
    let newest = || offering(json!({ "protocol": 3, "caps": CAPS }));
    assert_no_direct_plane("newest", newest, "supports direct protocols 3 to 3");
    let older = || offering(json!({ "protocol": 0, "oldest": 0, "caps": CAPS }));
    assert_no_direct_plane("older", older, "supports direct protocols 0 to 0");
}

#[test]
fn a_worker_without_a_seam_has_no_direct_plane() {
    // qemu-server from 9.2.4 on; earlier versions and pve-container, which ignore the property.
    for answer in [
        "query-disk-import: property 'direct' is not defined in schema",
        "no disk import running",
    ] {
        assert_no_direct_plane(
            answer,
            || answering_hello(json!({ "success": 0, "msg": answer })),
            &format!(
                "the target has no direct planes: pve-tunnel is missing, switched off or failing \
                 on that node; its worker answered: {answer}"
            ),
        );
    }
    assert_no_direct_plane(
        "no 'direct'",
        || answering_hello(json!({ "success": 1 })),
        "the answer is malformed",
    );
    let polls = json!({ "success": 1, "status": "pending" });
    assert_no_direct_plane(
        "an answer to something else",
        || answering_hello(polls.clone()),
        "the answer is malformed",
    );
}

#[test]
fn a_malformed_offer_is_refused() {
    for hello in [
        json!([]),
        json!("hello"),
        json!({}),
        json!({ "protocol": "one", "caps": CAPS }),
        json!({ "protocol": 100_000, "caps": CAPS }),
        json!({ "protocol": 1, "oldest": [], "caps": CAPS }),
        json!({ "protocol": 1, "caps": CAPS, "withheld": ["direct-tls"] }),
    ] {
        assert_no_direct_plane(
            &hello.to_string(),
            || offering(hello.clone()),
            "no direct planes: invalid answer",
        );
    }
}

#[test]
fn malformed_capabilities_are_refused_with_a_reason() {
    for (caps, words) in [
        (json!("direct-tls"), "caps"),
        (json!(["direct-tls", 7]), "caps"),
        (json!(["Direct TLS"]), "Direct TLS"),
        (json!(vec!["direct-tls"; 65]), "65"),
    ] {
        for kind in ["secure", "insecure"] {
            let seam = offering(json!({ "protocol": 1, "caps": caps }));
            let tunnel = NegotiatedTunnel::negotiate(seam.clone(), &plane_request(kind));
            let answer = &tunnel.answer;
            assert_eq!(answer["success"], false, "{answer}");
            assert!(answer["msg"].as_str().unwrap().contains(words), "{answer}");
            assert_eq!(seam.received(), ["version", "hello"]);
        }
    }
}

#[test]
fn what_the_target_withholds_is_logged_and_not_used() {
    let seam = offering(json!({
        "protocol": 1, "caps": ["direct-tls"],
        "withheld": { "direct-tcp": "this node's configuration requires encryption" },
    }));
    let tunnel = NegotiatedTunnel::negotiate(seam.clone(), &plane_request("insecure"));
    assert_eq!(tunnel.answer["success"], false);
    let log = tunnel.connector.finish().log;
    assert!(
        log.contains("does not offer direct-tcp: the target's configuration requires encryption"),
        "{log}"
    );
    let tunnel = NegotiatedTunnel::on_plane("tls", seam, &plane_request("secure"));
    let (_, ended) = tunnel.finish();
    assert!(
        !ended.log.contains("direct-tcp"),
        "clear text was not requested: {}",
        ended.log
    );
}

#[test]
fn without_a_direct_plane_in_the_call_the_seam_is_not_used() {
    let seam = Seam::default();
    let tunnel = NegotiatedTunnel::negotiate(
        seam.clone(),
        &plane_request_with("secure", &json!({ "planes": [] })),
    );
    assert_eq!(tunnel.answer["plan"]["plane"], "websocket");
    assert_eq!(seam.received(), ["version"]);
}

#[test]
fn a_seam_that_never_answers_is_abandoned_at_the_limit() {
    let (hold, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let seam = Seam::scripted(move |_, _| {
        // Until the test is over.
        let _ = held.lock().unwrap().recv();
        Value::Null
    });
    let tunnel = NegotiatedTunnel::negotiate(seam.clone(), &plane_request("secure"));
    let answer = &tunnel.answer;
    assert_eq!(answer["plan"]["plane"], "websocket", "{answer}");
    assert!(tunnel.took >= Duration::from_secs(15), "{:?}", tunnel.took);
    assert!(tunnel.took < Duration::from_secs(25), "{:?}", tunnel.took);
    assert_eq!(seam.received(), ["version", "hello"]);
    drop(hold);
}

#[test]
fn a_mistake_in_the_configuration_of_the_target_ends_the_negotiation() {
    let mistake = "/etc/pve/remote-migration.cfg, line 3: 'sorce' is not a key";
    for kind in ["secure", "insecure"] {
        let seam = answering_hello(json!({ "success": 1, "direct": {
            "protocol": 1, "caps": [], "misconfigured": mistake,
            "withheld": { "direct-tls": mistake, "direct-tcp": mistake },
        } }));
        let tunnel = NegotiatedTunnel::negotiate(seam.clone(), &plane_request(kind));
        let answer = &tunnel.answer;
        assert_eq!(answer["success"], false, "{answer}");
        let expected = format!(
            "the target's configuration has a mistake: {mistake}; fix it on the target node"
        );
        assert_eq!(answer["msg"], expected);
        assert_eq!(seam.received(), ["version", "hello"]);
    }
}
