//! Peers of other versions: an older, a newer, one without a seam, and some that say nonsense.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use testing::seam::{NegotiatedTunnel, Seam, plane_request, plane_request_with, program};

/// A seam that answers `hello` with this.
fn greeting(answer: Value) -> Seam {
    Seam::scripted(move |direct, ours| match direct["op"].as_str() {
        Some("hello") => answer.clone(),
        _ => ours(),
    })
}

/// A seam whose `hello` says this.
fn saying(hello: Value) -> Seam {
    greeting(json!({ "success": 1, "direct": hello }))
}

fn echoes(tunnel: &mut NegotiatedTunnel) {
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

/// No direct plane: `secure` takes the websocket, `insecure` is an error; nothing but `hello` was
/// asked. What the log says of it has these words.
fn has_none(what: &str, answer: impl Fn() -> Seam, words: &str) {
    for kind in ["secure", "insecure"] {
        let seam = answer();
        let mut tunnel = NegotiatedTunnel::negotiate(seam.clone(), &plane_request(kind));
        let told = tunnel.answer.clone();
        assert_eq!(seam.received(), ["version", "hello"], "{what}");
        if kind == "secure" {
            assert_eq!(told["success"], true, "{what}: {told}");
            assert_eq!(told["plan"]["plane"], "websocket", "{what}: {told}");
            assert_eq!(told["direct"], Value::Null, "{what}: {told}");
            echoes(&mut tunnel);
        } else {
            assert_eq!(told["success"], false, "{what}: {told}");
            let message = told["msg"].as_str().unwrap();
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

/// Both planes are had, with the protocol that both speak.
fn has_both(hello: Value) {
    for (kind, plane) in [("secure", "tls"), ("insecure", "tcp")] {
        let seam = saying(hello.clone());
        let mut tunnel = NegotiatedTunnel::on_plane(plane, seam.clone(), &plane_request(kind));
        assert_eq!(tunnel.answer["direct"]["protocol"], 1);
        let open = &seam.requests("open")[0];
        assert_eq!(open["protocol"], 1, "{hello}");
        // An integer, as the protocol says: not every reader of JSON takes 60.0 for one.
        assert_eq!(open["dead_peer_timeout"].as_u64(), Some(60), "{open}");
        echoes(&mut tunnel);
    }
}

const CAPS: [&str; 2] = ["direct-tls", "direct-tcp"];

#[test]
fn a_newer_target_that_still_speaks_our_protocol() {
    has_both(json!({
        "protocol": 7, "oldest": 1, "caps": ["direct-quic", "direct-tls", "direct-tcp"],
        "withheld": { "direct-quic": "no such thing here" }, "version": "12.0.1",
        "compression": { "zstd": [1, 2] }, "nonsense": null,
    }));
}

#[test]
fn a_target_that_says_the_least() {
    has_both(json!({ "protocol": 1, "caps": CAPS }));
}

#[test]
fn a_target_of_another_protocol_alone() {
    let newer = || saying(json!({ "protocol": 7, "oldest": 2, "caps": CAPS }));
    has_none(
        "newer",
        newer,
        "supports direct protocols 2 to 7, this node 1 to 1",
    );
    let newest = || saying(json!({ "protocol": 2, "caps": CAPS }));
    has_none("newest", newest, "supports direct protocols 2 to 2");
    let older = || saying(json!({ "protocol": 0, "oldest": 0, "caps": CAPS }));
    has_none("older", older, "supports direct protocols 0 to 0");
}

#[test]
fn a_worker_without_a_seam() {
    let stock = json!({
        "success": 0,
        "msg": "query-disk-import: property 'direct' is not defined in schema",
    });
    has_none(
        "stock",
        || greeting(stock.clone()),
        "property 'direct' is not defined",
    );
    has_none(
        "no 'direct'",
        || greeting(json!({ "success": 1 })),
        "the answer is malformed",
    );
    let polls = json!({ "success": 1, "status": "pending" });
    has_none(
        "an answer to something else",
        || greeting(polls.clone()),
        "the answer is malformed",
    );
}

#[test]
fn a_greeting_of_the_wrong_shape() {
    for hello in [
        json!([]),
        json!("hello"),
        json!({}),
        json!({ "protocol": "one", "caps": CAPS }),
        json!({ "protocol": 100_000, "caps": CAPS }),
        json!({ "protocol": 1, "oldest": [], "caps": CAPS }),
        json!({ "protocol": 1, "caps": CAPS, "withheld": ["direct-tls"] }),
    ] {
        has_none(
            &hello.to_string(),
            || saying(hello.clone()),
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
            let seam = saying(json!({ "protocol": 1, "caps": caps }));
            let tunnel = NegotiatedTunnel::negotiate(seam.clone(), &plane_request(kind));
            let told = &tunnel.answer;
            assert_eq!(told["success"], false, "{told}");
            assert!(told["msg"].as_str().unwrap().contains(words), "{told}");
            assert_eq!(seam.received(), ["version", "hello"]);
        }
    }
}

#[test]
fn what_the_target_withholds_is_logged_and_not_had() {
    let seam = saying(json!({
        "protocol": 1, "caps": ["direct-tls"],
        "withheld": { "direct-tcp": "this node's configuration requires encryption" },
    }));
    let tunnel = NegotiatedTunnel::negotiate(seam.clone(), &plane_request("insecure"));
    assert_eq!(tunnel.answer["success"], false);
    let log = tunnel.connector.finish().log;
    assert!(
        log.contains("does not offer direct-tcp: this node's configuration requires encryption"),
        "{log}"
    );
    NegotiatedTunnel::on_plane("tls", seam, &plane_request("secure"));
}

#[test]
fn a_caller_that_allows_no_direct_plane_asks_for_none() {
    let seam = Seam::default();
    let tunnel = NegotiatedTunnel::negotiate(
        seam.clone(),
        &plane_request_with("secure", &json!({ "planes": [] })),
    );
    assert_eq!(tunnel.answer["plan"]["plane"], "websocket");
    assert_eq!(seam.received(), ["version"]);
}

#[test]
fn a_seam_that_never_answers_is_waited_for_until_its_limit() {
    let (hold, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let seam = Seam::scripted(move |_, _| {
        // Until the test is over.
        let _ = held.lock().unwrap().recv();
        Value::Null
    });
    let tunnel = NegotiatedTunnel::negotiate(seam.clone(), &plane_request("secure"));
    let told = &tunnel.answer;
    assert_eq!(told["plan"]["plane"], "websocket", "{told}");
    assert!(tunnel.took >= Duration::from_secs(15), "{:?}", tunnel.took);
    assert!(tunnel.took < Duration::from_secs(25), "{:?}", tunnel.took);
    assert_eq!(seam.received(), ["version", "hello"]);
    drop(hold);
}
