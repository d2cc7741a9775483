//! The command `probe`: what would fail later is reported before anything exists at the target.

use serde_json::{Value, json};
use std::io::Read;
use std::net::TcpListener;
use std::sync::{Mutex, mpsc};
use testing::connector::Connector;
use testing::read_to_end;
use testing::target::{Identity, Target, serve_worker, stock_answer};

fn probe(connector: &mut Connector, url: &str, fingerprint: Option<String>) -> Value {
    let mut data = json!({ "url": url });
    if let Some(fingerprint) = fingerprint {
        data["fingerprint"] = fingerprint.into();
    }
    connector.request(&json!({ "control": true, "cmd": "probe", "data": data }))
}

#[test]
fn a_probe_reports_the_address_and_sends_no_request() {
    let target = Target::new(|request| serve_worker(request, stock_answer));
    let mut connector = Connector::start();
    let url = target.url("").replace("127.0.0.1", "localhost");
    let answer = probe(&mut connector, &url, Some(target.fingerprint.to_string()));
    assert_eq!(answer["success"], true, "{answer}");
    assert_eq!(answer["address"], "127.0.0.1", "{answer}");
    let cipher = answer["cipher"].as_str().unwrap();
    assert!(cipher.starts_with("TLSv1_3 "), "{answer}");
    assert!(target.requests.lock().unwrap().is_empty());
    // The control connection follows on the same connector.
    connector.connect(&target);
    assert_eq!(connector.request(&json!({ "cmd": "version" }))["api"], 2);
    assert!(connector.finish().status.success());
}

#[test]
fn a_probe_reports_what_would_fail_later() {
    let target = Target::new(|_| panic!("the target received a request"));
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let other = Identity::new().fingerprint().to_string();
    let cases = [
        (
            target.url(""),
            Some(other.clone()),
            format!("expected {other}"),
        ),
        (target.url(""), None, "is not trusted".to_owned()),
        (
            target.url(""),
            Some("AB".to_owned()),
            "64 hexadecimal digits".to_owned(),
        ),
        (
            format!("wss://{closed}/"),
            Some(other.clone()),
            format!("cannot connect to {closed}: Connection refused"),
        ),
        (
            "wss://no-such-host.invalid:8006/".to_owned(),
            Some(other.clone()),
            "cannot connect to no-such-host.invalid:8006".to_owned(),
        ),
        (
            "https://::1:8006/".to_owned(),
            Some(other),
            "it is not a URL".to_owned(),
        ),
    ];
    let mut connector = Connector::start();
    for (url, fingerprint, expected) in cases {
        let answer = probe(&mut connector, &url, fingerprint);
        assert_eq!(answer["success"], false, "{url}: {answer}");
        let reason = answer["msg"].as_str().unwrap();
        assert!(reason.contains(&expected), "{url}: {reason}");
    }
    // No control connection was requested, so none has failed.
    let finished = connector.finish();
    assert!(finished.status.success(), "{}", finished.log);
    assert!(finished.log.contains("is not trusted"), "{}", finished.log);
}

#[test]
fn a_probe_is_cancelled_after_the_end_of_the_input() {
    let (received, hello) = mpsc::channel();
    let received = Mutex::new(received);
    // It does not answer the TLS handshake, for which the connector has a limit of 10 s.
    let silent = Target::raw(move |mut tcp| {
        assert!(tcp.read(&mut [0; 1024]).unwrap() > 0);
        received.lock().unwrap().send(()).unwrap();
        let _ = read_to_end(&tcp);
    });
    let mut connector = Connector::start();
    let data = json!({ "url": format!("wss://{silent}/"), "fingerprint": "00".repeat(32) });
    connector.send(&json!({ "control": true, "cmd": "probe", "data": data }));
    hello.recv().unwrap();
    let finished = connector.finish();
    assert!(finished.status.success(), "{}", finished.log);
    let answer: Value = serde_json::from_str(&finished.rest).unwrap();
    assert_eq!(answer["success"], false, "{answer}");
    let reason = answer["msg"].as_str().unwrap();
    assert!(reason.contains("the input has ended"), "{reason}");
}

#[test]
fn a_probe_is_answered_if_the_input_ends_after_it() {
    let target = Target::new(|_| panic!("the target received a request"));
    let mut connector = Connector::start();
    let fingerprint = target.fingerprint.to_string();
    let data = json!({ "url": target.url(""), "fingerprint": fingerprint });
    connector.send(&json!({ "control": true, "cmd": "probe", "data": data }));
    let finished = connector.finish();
    let answer: Value = serde_json::from_str(&finished.rest).unwrap();
    assert_eq!(answer["success"], true, "{answer}");
}
