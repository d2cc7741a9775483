//! Dialling the target's listener: whatever is there in its place, `secure` takes the websocket with
//! one warning, `insecure` ends before anything is changed, and neither takes longer than its limit.

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

/// What is not to be waited for is over long before this limit, and what waits does so for it.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A limit that is waited for, and how long after it everything is over.
const LIMIT: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(2);

/// A loopback address on which nobody else listens, at any port.
fn fresh() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id() % (250 * 250);
    let (high, low) = ((pid / 250) as u8, (pid % 250) as u8);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, high + 1, low, number).into()
}

/// Something that listens on a port of the migration range, and is no listener of ours.
fn stranger(script: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let bound = bind_port(fresh()).unwrap();
    let address = bound.listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in bound.listener.incoming() {
            script(stream.unwrap());
        }
    });
    address
}

/// A seam that says that its listener is there.
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

/// A seam that opens a listener and says something else of it.
fn distorting(distort: impl Fn(&mut Value) + Send + Sync + 'static) -> Seam {
    Seam::scripted(move |direct, ours| {
        let mut answer = ours();
        if direct["op"] == "open" {
            distort(&mut answer["direct"]);
        }
        answer
    })
}

/// A dial that fails: what the operator is told, and how long it took.
fn failing(kind: &str, seam: &Seam, limit: Duration) -> (String, Duration) {
    let limit = json!({ "dial_timeout": limit.as_secs_f64() });
    let (mut tunnel, told) = refused(kind, seam, &limit);
    assert_eq!(seam.received(), ["version", "hello", "open", "close"]);
    goes_on(kind, &mut tunnel);
    (told, tunnel.took)
}

/// A negotiation that comes to no direct plane, and what the operator is told.
fn refused(kind: &str, seam: &Seam, fields: &Value) -> (NegotiatedTunnel, String) {
    let tunnel = NegotiatedTunnel::negotiate(seam.clone(), &plane_request_with(kind, fields));
    let answer = &tunnel.answer;
    if kind == "insecure" {
        assert_eq!(answer["success"], false, "{answer}");
        let told = answer["msg"].as_str().unwrap().to_owned();
        return (tunnel, told);
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
        // That the network that was asked for is not used, is another matter.
        .filter(|warning| !warning.starts_with("migration network '127.0.0.0/8' is not used"))
        .collect();
    assert!(warnings.len() <= 1, "{answer}");
    let told = warnings.first().copied().unwrap_or_default().to_owned();
    (tunnel, told)
}

/// The control connection serves on; after `secure`, so do forwards.
fn goes_on(kind: &str, tunnel: &mut NegotiatedTunnel) {
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

fn names(told: &str, address: SocketAddr, words: &str) {
    let place = format!("{}, port {}", address.ip(), address.port());
    assert!(told.contains(&place), "{place}: {told}");
    assert!(told.contains(words), "{words}: {told}");
}

#[test]
fn a_closed_port_is_told_by_its_errno() {
    for kind in ["secure", "insecure"] {
        let address = SocketAddr::new(fresh(), 60_007);
        let seam = announcing(&[address.ip()], address.port());
        let (told, took) = failing(kind, &seam, TIMEOUT);
        names(&told, address, "Connection refused (os error 111)");
        assert!(took < TIMEOUT / 2, "{took:?}");
    }
}

#[test]
fn every_address_that_was_tried_is_told() {
    let (one, other) = (fresh(), fresh());
    let (told, _) = failing("secure", &announcing(&[one, other], 60_008), TIMEOUT);
    let place = format!("{one}, {other}, port 60008");
    assert!(told.contains(&place), "{told}");
    assert!(
        told.contains(&format!("{one}: Connection refused")),
        "{told}"
    );
    assert!(
        told.contains(&format!("{other}: Connection refused")),
        "{told}"
    );
}

#[test]
fn one_that_accepts_and_says_nothing_is_waited_for_no_longer_than_the_limit() {
    for (kind, words) in [
        ("secure", "no answer to the TLS handshake within 2s"),
        ("insecure", "no answer to the handshake within 2s"),
    ] {
        let kept = Mutex::new(Vec::new());
        let address = stranger(move |stream| kept.lock().unwrap().push(stream));
        let seam = announcing(&[address.ip()], address.port());
        let (told, took) = failing(kind, &seam, LIMIT);
        names(&told, address, words);
        assert!(took >= LIMIT && took < LIMIT + SLACK, "{took:?}");
    }
}

#[test]
fn one_that_says_something_else_is_no_listener() {
    for (kind, said, words) in [
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
        let address = stranger(move |mut stream| {
            let _ = stream.write_all(said);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = read_to_end(&stream);
        });
        let seam = announcing(&[address.ip()], address.port());
        let (told, took) = failing(kind, &seam, TIMEOUT);
        names(&told, address, words);
        assert!(took < TIMEOUT / 2, "{took:?}");
    }
}

/// Passes a TCP connection on as it is.
fn pass_on(stream: TcpStream, address: SocketAddr) {
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
fn one_in_the_middle_that_leads_to_another_listener_gets_nothing() {
    for (kind, plane, words) in [
        ("secure", "tls", "fingerprint"),
        ("insecure", "tcp", "the listener refused the handshake"),
    ] {
        let mut options = json!({ "plane": plane, "network": "127.0.0.0/8", "node": "node" });
        if plane == "tls" {
            options["fingerprint"] = json!(Identity::one_time().unwrap().fingerprint().to_string());
        }
        // Another migration's.
        let mut other = Listener::start(options);
        let open = other.open();
        let there = SocketAddr::new(open.addresses[0], open.port);
        let address = stranger(move |stream| pass_on(stream, there));
        let seam = distorting(move |open| {
            open["addresses"] = json!([address.ip()]);
            open["port"] = json!(address.port());
        });
        let (told, _) = failing(kind, &seam, TIMEOUT);
        names(&told, address, words);
        // Ours has been closed, unused.
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
fn one_in_the_middle_with_a_certificate_of_its_own_learns_nothing() {
    let heard: Arc<Mutex<Vec<Option<Vec<u8>>>>> = Arc::default();
    let own = Identity::one_time().unwrap();
    let source: Arc<Mutex<Option<Value>>> = Arc::default();
    let (seen, told_source) = (heard.clone(), source.clone());
    // It knows whom it is to expect, as if it had read the control plane, and answers everything.
    let address = stranger(move |stream| {
        let pin = told_source.lock().unwrap().clone().unwrap();
        let server = Server::direct(&own, pin.as_str().unwrap().parse().unwrap()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let said = runtime.block_on(async {
            stream.set_nonblocking(true).unwrap();
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            let mut stream = server.handshake(stream).await.ok()?;
            let mut said = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut said).await;
            Some(said)
        });
        seen.lock().unwrap().push(said);
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
    let (told, _) = failing("secure", &seam, TIMEOUT);
    names(&told, address, "fingerprint");
    testing::wait_until("the one in the middle is done", || {
        !heard.lock().unwrap().is_empty()
    });
    // Refused within the handshake.
    assert_eq!(*heard.lock().unwrap(), [None]);
}

#[test]
fn the_second_address_is_taken_where_the_first_is_closed() {
    for (kind, plane) in [("secure", "tls"), ("insecure", "tcp")] {
        let closed = fresh();
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
fn announcements_that_are_not_acceptable_are_dialled_nowhere() {
    // Whoever is dialled in spite of it is heard of.
    let (there, dialled) = (
        TcpListener::bind((fresh(), 0)).unwrap(),
        Arc::new(AtomicU8::new(0)),
    );
    let outside = there.local_addr().unwrap();
    let count = dialled.clone();
    thread::spawn(move || {
        for _ in there.incoming() {
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
            let (told, took) = failing(kind, &seam, TIMEOUT);
            assert!(told.contains(words), "{words}: {told}");
            assert!(took < TIMEOUT / 2, "{took:?}");
            seam.take_listener().end().0.unwrap();
        }
    }
    assert_eq!(dialled.load(Ordering::Relaxed), 0);
}

#[test]
fn the_other_direct_plane_is_not_what_was_asked_for() {
    for (kind, other) in [("secure", "tcp"), ("insecure", "tls")] {
        let seam = distorting(move |open| open["plane"] = json!(other));
        let (told, _) = failing(kind, &seam, TIMEOUT);
        assert!(told.contains("which was not requested"), "{told}");
    }
}

#[test]
fn a_loopback_address_is_not_dialled_unless_its_network_was_named() {
    let address = fresh();
    for (kind, words) in [("secure", "loopback"), ("insecure", "loopback")] {
        let seam = announcing(&[address], 60_000);
        let fields = json!({ "migration_network": null, "network": null, "source_network": null });
        let (_, told) = refused(kind, &seam, &fields);
        assert!(told.contains(words), "{told}");
        assert_eq!(seam.received(), ["version", "hello", "open", "close"]);
    }
}

#[test]
fn an_answer_that_is_not_understood_opens_nothing_that_stays_open() {
    let distortions: &[(&str, Value)] = &[
        ("port", json!("sixty thousand")),
        ("port", json!(70_000)),
        ("port", Value::Null),
        ("addresses", json!("127.0.0.1")),
        ("addresses", json!(["node.example.com"])),
        ("addresses", json!(["127.1"])),
        ("key", json!("5e")),
        ("key", Value::Null),
        ("plane", json!("carrier pigeon")),
        ("protocol", json!(-1)),
    ];
    for kind in ["secure", "insecure"] {
        for (field, value) in distortions {
            let what = format!("{kind}: {field} {value}");
            let (field, value) = ((*field).to_owned(), value.clone());
            let seam = distorting(move |open| open[&field] = value.clone());
            let (told, _) = failing(kind, &seam, TIMEOUT);
            assert!(told.contains("invalid answer"), "{what}: {told}");
            let (ended, _) = seam.take_listener().end();
            ended.unwrap();
        }
    }
    // A fingerprint that is none, or is missing.
    for value in [json!("AA:BB"), Value::Null] {
        let seam = distorting(move |open| open["fingerprint"] = value.clone());
        let (told, _) = failing("secure", &seam, TIMEOUT);
        assert!(told.contains("fingerprint"), "{told}");
    }
}

#[test]
fn an_open_that_is_refused_or_says_nothing_of_itself() {
    // Only what is refused has certainly opened nothing.
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
            let (_, told) = refused(kind, &seam, &json!({}));
            assert!(told.contains(words), "{told}");
            let said = ["version", "hello", "open", "close"];
            assert_eq!(seam.received(), said[..3 + usize::from(closes)]);
        }
    }
}
