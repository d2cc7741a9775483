//! Dialling the target's listener when another service or nothing is at its address: `secure` uses
//! the websocket with one warning, `insecure` ends before any change, and neither exceeds its
//! limit.

use pve_tunnel::network::bind_port;
use pve_tunnel::tls::{Identity, Server};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use testing::listener::Listener;
use testing::read_to_end;
use testing::seam::{NegotiatedTunnel, Seam, plane_request_with};

/// A limit so long that a dial which waits for it is detected.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A limit that the dial does wait for, and how long after it the dial has ended.
const LIMIT: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(2);

/// A loopback address at which no other program listens.
fn unused_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id() % (250 * 250);
    let (high, low) = ((pid / 250) as u8, (pid % 250) as u8);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, high + 1, low, number).into()
}

/// Another service on a port of the migration range.
fn other_service(script: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let bound = bind_port(unused_address()).unwrap();
    let address = bound.listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in bound.listener.incoming() {
            script(stream.unwrap());
        }
    });
    address
}

/// A seam that announces these addresses and this port for its listener.
fn announcing(addresses: &[IpAddr], port: u16) -> Seam {
    let addresses = addresses.to_vec();
    Seam::scripted(move |direct, ours| match direct["op"].as_str() {
        Some("open") => {
            let mut answer = json!({
                "protocol": 1, "plane": direct["plane"], "addresses": addresses, "port": port,
                "key": "5e".repeat(32),
            });
            if direct["plane"] == "tls" {
                answer["fingerprint"] = json!(["AA"; 32].join(":"));
            }
            json!({ "success": 1, "direct": answer })
        }
        _ => ours(),
    })
}

/// A seam that opens a listener and changes its announcement.
fn distorting(distort: impl Fn(&mut Value) + Send + Sync + 'static) -> Seam {
    Seam::scripted(move |direct, ours| {
        let mut answer = ours();
        if direct["op"] == "open" {
            distort(&mut answer["direct"]);
        }
        answer
    })
}

/// A dial that fails. Returns the message to the operator and how long the negotiation took.
fn fail_to_dial(kind: &str, seam: &Seam, limit: Duration) -> (String, Duration) {
    let limit = json!({ "dial_timeout": limit.as_secs_f64() });
    let (mut tunnel, message) = refused(kind, seam, &limit);
    assert_eq!(seam.received(), ["version", "hello", "open", "close"]);
    assert_continues(kind, &mut tunnel);
    (message, tunnel.took)
}

/// A negotiation without a direct plane as its result. Also returns the message to the operator.
fn refused(kind: &str, seam: &Seam, fields: &Value) -> (NegotiatedTunnel, String) {
    let tunnel = NegotiatedTunnel::negotiate(seam.clone(), &plane_request_with(kind, fields));
    let answer = &tunnel.answer;
    if kind == "insecure" {
        assert_eq!(answer["success"], false, "{answer}");
        let message = answer["msg"].as_str().unwrap().to_owned();
        return (tunnel, message);
    }
    assert_eq!(answer["success"], true, "{answer}");
    assert_eq!(answer["plan"]["plane"], "websocket", "{answer}");
    assert_eq!(answer["plan"]["offline"], "websocket", "{answer}");
    assert_eq!(answer["direct"], Value::Null, "{answer}");
    let warnings: Vec<&str> = answer["plan"]["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|warning| warning.as_str().unwrap())
        // The warning that the requested network is not used has another reason.
        .filter(|warning| !warning.starts_with("migration network '127.0.0.0/8' is not used"))
        .collect();
    assert!(warnings.len() <= 1, "{answer}");
    let message = warnings.first().copied().unwrap_or_default().to_owned();
    (tunnel, message)
}

/// Requires that the control connection works and, after `secure`, forwards by websocket.
fn assert_continues(kind: &str, tunnel: &mut NegotiatedTunnel) {
    let version = tunnel.connector.request(&json!({ "cmd": "version" }));
    assert_eq!(version["api"], 2);
    if kind == "secure" {
        let mut local = tunnel.connector.open(&tunnel.target, "/run/echo");
        local.write_all(b"by websocket").unwrap();
        let mut answer = [0; 12];
        local.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"by websocket");
    }
}

fn assert_message(message: &str, address: SocketAddr, expected: &str) {
    let endpoint = format!("{}, port {}", address.ip(), address.port());
    assert!(message.contains(&endpoint), "{endpoint}: {message}");
    assert!(message.contains(expected), "{expected}: {message}");
}

#[test]
fn a_closed_port_is_reported_with_its_errno() {
    for kind in ["secure", "insecure"] {
        let address = SocketAddr::new(unused_address(), 60_007);
        let seam = announcing(&[address.ip()], address.port());
        let (message, took) = fail_to_dial(kind, &seam, TIMEOUT);
        assert_message(&message, address, "Connection refused (os error 111)");
        assert!(took < TIMEOUT / 2, "{took:?}");
    }
}

#[test]
fn every_address_that_was_dialled_is_reported() {
    let (one, other) = (unused_address(), unused_address());
    let (message, _) = fail_to_dial("secure", &announcing(&[one, other], 60_008), TIMEOUT);
    let endpoints = format!("{one}, {other}, port 60008");
    assert!(message.contains(&endpoints), "{message}");
    assert!(
        message.contains(&format!("{one}: Connection refused")),
        "{message}"
    );
    assert!(
        message.contains(&format!("{other}: Connection refused")),
        "{message}"
    );
}

#[test]
fn a_service_that_sends_nothing_is_closed_at_the_limit() {
    for (kind, words) in [
        ("secure", "no answer to the TLS handshake within 2s"),
        ("insecure", "no answer to the handshake within 2s"),
    ] {
        let kept = Mutex::new(Vec::new());
        let address = other_service(move |stream| kept.lock().unwrap().push(stream));
        let seam = announcing(&[address.ip()], address.port());
        let (message, took) = fail_to_dial(kind, &seam, LIMIT);
        assert_message(&message, address, words);
        assert!(took >= LIMIT && took < LIMIT + SLACK, "{took:?}");
    }
}

#[test]
fn a_service_that_is_not_a_listener_is_reported() {
    for (kind, greeting, words) in [
        ("secure", &b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], "TLS"),
        ("secure", b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS"),
        (
            "insecure",
            b"SSH-2.0-OpenSSH_9.2p1\r\n",
            "not a pve-tunnel listener",
        ),
        (
            "insecure",
            b"pvetun\0\x09................................",
            "protocol 9",
        ),
        ("insecure", b"pvetun\0\x01", "the handshake failed"),
        ("insecure", b"", "the handshake failed"),
    ] {
        let address = other_service(move |mut stream| {
            let _ = stream.write_all(greeting);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = read_to_end(&stream);
        });
        let seam = announcing(&[address.ip()], address.port());
        let (message, took) = fail_to_dial(kind, &seam, TIMEOUT);
        assert_message(&message, address, words);
        assert!(took < TIMEOUT / 2, "{took:?}");
    }
}

/// Relays a TCP connection without change.
fn relay(stream: TcpStream, address: SocketAddr) {
    let onward = TcpStream::connect(address).unwrap();
    for (mut from, mut to) in [
        (stream.try_clone().unwrap(), onward.try_clone().unwrap()),
        (onward, stream),
    ] {
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    }
}

#[test]
fn an_attacker_that_relays_to_another_listener_is_refused() {
    for (kind, plane, words) in [
        ("secure", "tls", "fingerprint"),
        ("insecure", "tcp", "the listener refused the handshake"),
    ] {
        let mut options = json!({ "plane": plane, "network": "127.0.0.0/8", "node": "node" });
        if plane == "tls" {
            options["fingerprint"] = json!(Identity::one_time().unwrap().fingerprint().to_string());
        }
        // The listener of another migration.
        let mut other = Listener::start(options);
        let open = other.open();
        let other_address = SocketAddr::new(open.addresses[0], open.port);
        let address = other_service(move |stream| relay(stream, other_address));
        let seam = distorting(move |open| {
            open["addresses"] = json!([address.ip()]);
            open["port"] = json!(address.port());
        });
        let (message, _) = fail_to_dial(kind, &seam, TIMEOUT);
        assert_message(&message, address, words);
        // The listener of this migration has been closed without connections.
        let (ended, _) = seam.take_listener().end();
        ended.unwrap();
        let stat = other.stat_until(|stat| stat.refused.total() == 1);
        assert_eq!(
            (stat.refused.tls, stat.refused.key),
            match plane {
                "tls" => (1, 0),
                _ => (0, 1),
            }
        );
    }
}

#[test]
fn an_attacker_with_its_own_certificate_receives_no_data() {
    let results: Arc<Mutex<Vec<Option<Vec<u8>>>>> = Arc::default();
    let own = Identity::one_time().unwrap();
    let source: Arc<Mutex<Option<Value>>> = Arc::default();
    let (seen, expected_source) = (results.clone(), source.clone());
    // The attacker pins the right source, as if it had read the control plane, and completes each
    // step.
    let address = other_service(move |stream| {
        let pin = expected_source.lock().unwrap().clone().unwrap();
        let server = Server::direct(&own, pin.as_str().unwrap().parse().unwrap()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let received = runtime.block_on(async {
            stream.set_nonblocking(true).unwrap();
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let mut stream = server.handshake(stream).await.ok()?;
            let mut received = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut received).await;
            Some(received)
        });
        seen.lock().unwrap().push(received);
    });
    let seam = Seam::scripted(move |direct, ours| {
        let mut answer = ours();
        if direct["op"] == "open" {
            *source.lock().unwrap() = Some(direct["fingerprint"].clone());
            answer["direct"]["addresses"] = json!([address.ip()]);
            answer["direct"]["port"] = json!(address.port());
        }
        answer
    });
    let (message, _) = fail_to_dial("secure", &seam, TIMEOUT);
    assert_message(&message, address, "fingerprint");
    testing::wait_until("the attacker has finished", || {
        !results.lock().unwrap().is_empty()
    });
    // The handshake failed.
    assert_eq!(*results.lock().unwrap(), [None]);
}

#[test]
fn the_second_address_is_used_if_the_first_is_closed() {
    for (kind, plane) in [("secure", "tls"), ("insecure", "tcp")] {
        let closed = unused_address();
        let seam = distorting(move |open| {
            let right = open["addresses"][0].clone();
            open["addresses"] = json!([closed, right]);
        });
        let tunnel = NegotiatedTunnel::on_plane(
            plane,
            seam.clone(),
            &plane_request_with(
                kind,
                &json!({
                    "dial_timeout": TIMEOUT.as_secs(),
                }),
            ),
        );
        assert_eq!(tunnel.answer["direct"]["address"], "127.0.0.1");
        assert_eq!(seam.operations(), ["hello", "open"]);
        assert!(tunnel.took < TIMEOUT / 2);
    }
}

#[test]
fn unacceptable_announcements_are_not_dialled() {
    // Counts connections that should not exist.
    let (listener, dialled) = (
        TcpListener::bind((unused_address(), 0)).unwrap(),
        Arc::new(AtomicU8::new(0)),
    );
    let outside = listener.local_addr().unwrap();
    let count = dialled.clone();
    thread::spawn(move || {
        for _ in listener.incoming() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let cases: &[(&str, Value, &str)] = &[
        ("port", json!(outside.port()), "60000"),
        ("port", json!(60_050), "60050"),
        ("port", json!(59_999), "59999"),
        ("port", json!(22), "22"),
        ("addresses", json!(["192.0.2.7"]), "outside"),
        ("addresses", json!(["224.0.0.1"]), "multicast"),
        ("addresses", json!(["0.0.0.0"]), "unspecified"),
        (
            "addresses",
            json!(["::ffff:127.0.0.1"]),
            "IPv4 address written as IPv6",
        ),
        ("addresses", json!(["fe80::1"]), "fe80::1"),
        ("addresses", json!([]), "no address"),
        ("plane", json!("qemu"), "which was not requested"),
        ("protocol", json!(2), "which was not requested"),
        ("protocol", json!(0), "which was not requested"),
    ];
    for kind in ["secure", "insecure"] {
        for (field, value, words) in cases {
            let (field, value) = ((*field).to_owned(), value.clone());
            let seam = distorting(move |open| {
                open["addresses"] = json!([outside.ip()]);
                open[&field] = value.clone();
            });
            let (message, took) = fail_to_dial(kind, &seam, TIMEOUT);
            assert!(message.contains(words), "{words}: {message}");
            assert!(took < TIMEOUT / 2, "{took:?}");
            seam.take_listener().end().0.unwrap();
        }
    }
    assert_eq!(dialled.load(Ordering::Relaxed), 0);
}

#[test]
fn an_announcement_for_the_other_direct_plane_is_refused() {
    for (kind, other) in [("secure", "tcp"), ("insecure", "tls")] {
        let seam = distorting(move |open| open["plane"] = json!(other));
        let (message, _) = fail_to_dial(kind, &seam, TIMEOUT);
        assert!(message.contains("which was not requested"), "{message}");
    }
}

#[test]
fn a_loopback_address_is_dialled_only_if_its_network_was_named() {
    let address = unused_address();
    for (kind, words) in [("secure", "loopback"), ("insecure", "loopback")] {
        let seam = announcing(&[address], 60_000);
        let fields = json!({ "migration_network": null, "network": null, "source_network": null });
        let (_, message) = refused(kind, &seam, &fields);
        assert!(message.contains(words), "{message}");
        assert_eq!(seam.received(), ["version", "hello", "open", "close"]);
    }
}

#[test]
fn a_malformed_answer_closes_the_listener_that_it_may_have_opened() {
    let distortions: &[(&str, Value)] = &[
        ("port", json!("sixty thousand")),
        ("port", json!(70_000)),
        ("port", Value::Null),
        ("addresses", json!("127.0.0.1")),
        ("addresses", json!(["node.example.com"])),
        ("addresses", json!(["127.1"])),
        ("key", json!("5e")),
        ("key", Value::Null),
        ("plane", json!("another plane")),
        ("protocol", json!(-1)),
    ];
    for kind in ["secure", "insecure"] {
        for (field, value) in distortions {
            let what = format!("{kind}: {field} {value}");
            let (field, value) = ((*field).to_owned(), value.clone());
            let seam = distorting(move |open| open[&field] = value.clone());
            let (message, _) = fail_to_dial(kind, &seam, TIMEOUT);
            assert!(message.contains("invalid answer"), "{what}: {message}");
            let (ended, _) = seam.take_listener().end();
            ended.unwrap();
        }
    }
    // A malformed fingerprint, and none.
    for value in [json!("AA:BB"), Value::Null] {
        let seam = distorting(move |open| open["fingerprint"] = value.clone());
        let (message, _) = fail_to_dial("secure", &seam, TIMEOUT);
        assert!(message.contains("fingerprint"), "{message}");
    }
}

#[test]
fn a_refused_open_is_not_closed_and_a_malformed_answer_is() {
    // Only a refusal guarantees that no listener was opened.
    for (answer, words, closes) in [
        (
            json!({ "success": 0, "msg": "no free port in 60000-60049" }),
            "no free port in 60000-60049",
            false,
        ),
        (json!({ "success": 0 }), "no reason given", false),
        (json!({ "success": 1 }), "the answer is malformed", true),
        (
            json!({ "success": 1, "direct": [] }),
            "invalid answer",
            true,
        ),
    ] {
        for kind in ["secure", "insecure"] {
            let answer = answer.clone();
            let seam = Seam::scripted(move |direct, ours| match direct["op"].as_str() {
                Some("open") => answer.clone(),
                _ => ours(),
            });
            let (_, message) = refused(kind, &seam, &json!({}));
            assert!(message.contains(words), "{message}");
            let requests = ["version", "hello", "open", "close"];
            assert_eq!(seam.received(), requests[..3 + usize::from(closes)]);
        }
    }
}
