//! The verification of the target's certificate, and the errors of each step of connecting.

use nix::unistd::pipe;
use pve_tunnel::connector::{Options, run};
use pve_tunnel::tls::Fingerprint;
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};
use testing::connector::{Connector, executable};
use testing::read_to_end;
use testing::target::{Identity, Target, close_cleanly, serve_worker, stock_answer};

/// Requires that a connector fails to connect. Returns the reason, which is in its answer and its
/// log.
fn refusal(url: &str, fingerprint: Option<Fingerprint>) -> String {
    refusal_of(Command::new(executable()).arg("connect"), url, fingerprint)
}

/// The same for the connector that `command` starts.
pub(crate) fn refusal_of(
    command: &mut Command,
    url: &str,
    fingerprint: Option<Fingerprint>,
) -> String {
    let mut connector = Connector::spawn(command);
    connector.connect_to(url, fingerprint);
    let answer = connector.request(&json!({ "cmd": "version" }));
    assert_eq!(answer["success"], false);
    let reason = answer["msg"]
        .as_str()
        .unwrap()
        .strip_prefix("not connected: ")
        .unwrap()
        .to_owned();
    let finished = connector.finish();
    assert!(!finished.status.success());
    assert!(finished.log.contains(&reason), "{}", finished.log);
    reason
}

#[test]
fn a_fingerprint_is_accepted_in_every_spelling_and_with_each_tls_version() {
    let target = Target::new(|request| serve_worker(request, stock_answer));
    let written = target.fingerprint.to_string();
    let spellings = [
        written.clone(),
        written.to_lowercase(),
        written.replace(':', ""),
        written.replace(':', "").to_lowercase(),
    ];
    for spelling in spellings {
        assert_eq!(spelling.parse::<Fingerprint>().unwrap(), target.fingerprint);
    }
    for version in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let target = Target::with_identity(&Identity::new(), version, |request| {
            serve_worker(request, stock_answer);
        });
        let log = Connector::connected(&target).finish().log;
        let expected = format!(
            "open (TLSv1_{}",
            if version[0] == &rustls::version::TLS12 {
                2
            } else {
                3
            }
        );
        assert!(log.contains(&expected), "{log}");
    }
}

/// AES-GCM of TLS 1.2 limits the amount of data of a connection.
#[test]
fn a_cipher_that_limits_the_amount_of_data_is_the_last_choice_and_has_a_warning() {
    use rustls::crypto::ring::cipher_suite::{
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 as AES,
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 as CHACHA20,
    };
    const WARNING: &str = "WARNING: TLSv1_2 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 can send \
         256 GiB at most over one connection, which then fails: allow TLS 1.3, or TLS 1.2 with \
         ChaCha20-Poly1305, at the target's API\n";
    for (suites, cipher, warnings) in [
        (&[AES, CHACHA20][..], "CHACHA20_POLY1305", 0),
        (&[AES], "AES_256_GCM", 1),
    ] {
        let identity = Identity::new().with_suites(suites);
        let versions = [&rustls::version::TLS12];
        let target =
            Target::with_identity(&identity, &versions, |request| match request.socket() {
                "/run/mtunnel" => serve_worker(request, stock_answer),
                _ => close_cleanly(request.accept()),
            });
        let mut connector = Connector::connected(&target);
        // Connections of a forward add no warning.
        let _ = read_to_end(&connector.open(&target, "/forward"));
        let log = connector.finish().log;
        assert!(log.contains(cipher), "{log}");
        assert_eq!(log.matches("WARNING").count(), warnings, "{log}");
        assert_eq!(log.matches(WARNING).count(), warnings, "{log}");
    }
}

#[test]
fn malformed_fingerprints_are_refused() {
    let good = "AB".repeat(32);
    let cases = [
        "".to_owned(),
        "AB".repeat(31),
        "AB".repeat(33),
        "AB".repeat(20),
        good.replacen("AB", "AG", 1),
        good.replacen("AB", "A:", 1),
        format!("sha256:{good}"),
        "A:B".repeat(22),
        "é".repeat(32),
    ];
    for text in cases {
        let error = text.parse::<Fingerprint>().unwrap_err().to_string();
        assert!(error.contains("64 hexadecimal digits"), "{text}: {error}");
    }
}

#[test]
fn a_mismatch_names_the_expected_and_the_actual_fingerprint() {
    let target = Target::new(|_| panic!("a target with another fingerprint received a request"));
    let expected = Identity::new().fingerprint();
    let reason = refusal(&target.url("ticket=T&socket=S"), Some(expected));
    assert!(reason.contains(&expected.to_string()), "{reason}");
    assert!(reason.contains(&target.fingerprint.to_string()), "{reason}");
}

#[test]
fn without_a_fingerprint_the_systems_cas_decide() {
    let identity = Identity::new();
    let target = Target::with_identity(&identity, rustls::ALL_VERSIONS, |request| {
        serve_worker(request, stock_answer);
    });
    let reason = refusal(&target.url("ticket=T&socket=S"), None);
    assert!(
        reason.contains("is not trusted") && reason.contains("no fingerprint was given"),
        "{reason}"
    );

    // With the same certificate among the system's CAs, its names are accepted and other names are
    // not.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, identity.pem()).unwrap();
    let with_ca = || {
        let mut command = Command::new(executable());
        command.arg("connect").env("SSL_CERT_FILE", &file);
        Connector::spawn(&mut command)
    };
    for host in ["127.0.0.1", "localhost"] {
        let mut connector = with_ca();
        let url = target.url("ticket=T&socket=S").replace("127.0.0.1", host);
        connector.connect_to(&url, None);
        let answer = connector.request(&json!({ "cmd": "version" }));
        assert_eq!(answer["api"], 2, "{host}: {answer}");
    }
    let mut connector = with_ca();
    connector.connect_to(
        &target
            .url("ticket=T&socket=S")
            .replace("127.0.0.1", "127.0.0.2"),
        None,
    );
    // The target listens only at its own address, so the connection to this address is refused.
    assert_eq!(
        connector.request(&json!({ "cmd": "version" }))["success"],
        false
    );
}

#[test]
fn a_refusal_is_reported_with_status_and_reason() {
    for (answer, expected) in [
        (
            "HTTP/1.1 401 permission denied - invalid PVE ticket\r\n\r\n",
            "401 permission denied - invalid PVE ticket",
        ),
        (
            "HTTP/1.1 500 no such VM ('100')\r\nContent-Length: 0\r\n\r\n",
            "500 no such VM ('100')",
        ),
        (
            "HTTP/1.1 501 Method not implemented\r\n\r\n",
            "501 Method not implemented",
        ),
        ("HTTP/1.0 200 OK\r\n\r\n", "200 OK"),
        ("HTTP/1.1 101 Fine\r\n\r\n", "no 'Upgrade: websocket'"),
        (
            "HTTP/1.1 101 Fine\r\nUpgrade: websocket\r\n\r\n",
            "no 'Connection: Upgrade'",
        ),
        (
            "HTTP/1.1 101 Fine\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
            "does not match the key",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP/1.1"),
        ("", "closed the connection instead of answering"),
    ] {
        let target = Target::new(move |mut request| request.answer(answer));
        let reason = refusal(&target.url("ticket=T&socket=S"), Some(target.fingerprint));
        assert!(reason.contains(expected), "{answer:?}: {reason}");
    }
    let endless = Target::new(|mut request| {
        let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
        let _ = request.stream.write_all(b"HTTP/1.1 101 Fine\r\n");
        while request.stream.write_all(line.as_bytes()).is_ok() {}
    });
    let reason = refusal(&endless.url("ticket=T&socket=S"), Some(endless.fingerprint));
    assert!(
        reason.contains("longer than 16 KiB") || reason.contains("64 headers"),
        "{reason}"
    );
}

#[test]
fn unusable_urls_are_refused_and_not_logged() {
    for (url, expected) in [
        ("", "not a URL"),
        ("http://127.0.0.1/secret", "begins with neither"),
        ("wss:///secret", "URL"),
        ("wss://127.0.0.1:99999/secret", "port"),
        ("https:///secret", "URL"),
        ("https://127.0.0.1:99999/secret", "port"),
        ("ws://192.0.2.1/secret", "loopback addresses only"),
        ("ws://example.com/secret", "loopback addresses only"),
    ] {
        let reason = refusal(url, None);
        assert!(reason.contains(expected), "{url}: {reason}");
    }
}

/// Runs the connector in this process with these limits. Returns its answer to `version` and how
/// long it took.
fn run_with_limits(url: String, options: serde_json::Value) -> (String, Duration) {
    let options: Options = serde_json::from_value(options).unwrap();
    let (input, to_input) = pipe().unwrap();
    let (from_output, output) = pipe().unwrap();
    let connect = json!({ "control": true, "cmd": "connect", "data": { "url": url, "fingerprint": "AB".repeat(32) } });
    File::from(to_input)
        .write_all(format!("{connect}\n{{\"cmd\":\"version\"}}\n").as_bytes())
        .unwrap();
    let started = Instant::now();
    run(input, output, None, &options).unwrap_err();
    let taken = started.elapsed();
    let mut answer = String::new();
    File::from(from_output).read_to_string(&mut answer).unwrap();
    (answer, taken)
}

#[test]
fn every_step_has_a_time_limit() {
    let silent = Target::raw(|mut tcp| {
        let _ = tcp.read_to_end(&mut Vec::new());
    });
    let (answer, taken) = run_with_limits(
        format!("wss://{silent}/x?ticket=T"),
        json!({ "handshake_timeout": 0.2 }),
    );
    assert!(
        answer.contains("no answer to the TLS handshake within 200ms"),
        "{answer}"
    );
    assert!(taken < Duration::from_secs(8));

    // qemu-server uses https:// in place of wss://.
    let (answer, _) = run_with_limits(
        format!("https://{silent}/x?ticket=T"),
        json!({ "handshake_timeout": 0.2 }),
    );
    assert!(
        answer.contains("no answer to the TLS handshake within 200ms"),
        "{answer}"
    );

    // With ws:// there is no TLS, so the upgrade is the next step.
    let (answer, _) = run_with_limits(
        format!("ws://{silent}/x?ticket=T"),
        json!({ "upgrade_timeout": 0.2 }),
    );
    assert!(
        answer.contains("no answer to the websocket upgrade within 200ms"),
        "{answer}"
    );
    assert!(
        answer.contains("check that the socket behind it still exists"),
        "{answer}"
    );
}

#[test]
fn malformed_options_are_refused() {
    for wrong in [
        json!({ "mask": "none" }),
        json!({ "connect_timeout": 0 }),
        json!({ "connect_timeout": -1 }),
        json!({ "connect_timeout": 1e9 }),
        json!({ "connect_timeout": "ten" }),
        json!({ "connect_timeout": "" }),
        json!({ "conect_timeout": 10 }),
    ] {
        assert!(
            serde_json::from_value::<Options>(wrong.clone()).is_err(),
            "{wrong}"
        );
    }
}
