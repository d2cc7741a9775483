//! The opening handshake: the request that pveproxy requires, and the accepted and refused answers.

use pve_tunnel::websocket::{Request, UpgradeError, Upgraded, upgrade};
use std::collections::HashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tungstenite::handshake::derive_accept_key;

const TOKEN: &str = "PVEAPIToken=root@pam!test=4d1bd3f8-secret";
const URL: &str = "wss://192.0.2.1:8006/api2/json/x?ticket=secret-ticket&socket=%2Frun%2Fx";
const MAX_HEAD: usize = 8 * 1024;

fn request(url: &str) -> Result<Request, UpgradeError> {
    Request::new(url, [("Authorization", TOKEN)])
}

/// Reads a request head to its end.
async fn read_head(server: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(server.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// The request head as sent on the connection.
async fn sent(request: &Request) -> String {
    let (client, mut server) = duplex(1 << 16);
    let (result, head) = tokio::join!(upgrade(client, request), async move {
        read_head(&mut server).await
    });
    assert!(matches!(result, Err(UpgradeError::Closed)));
    head
}

fn headers(head: &str) -> HashMap<String, &str> {
    let lines = head.trim_end().split("\r\n").skip(1);
    let mut headers = HashMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        let twice = headers.insert(name.to_lowercase(), value);
        assert_eq!(twice, None, "{name} is sent twice");
    }
    headers
}

/// The result of an upgrade whose answer is `head`, with `{accept}` replaced by the correct accept
/// key, followed by `early`, in pieces of `step` bytes.
async fn answered(
    head: impl AsRef<[u8]>,
    early: &[u8],
    step: usize,
) -> Result<Upgraded<DuplexStream>, UpgradeError> {
    let request = request(URL).unwrap();
    let (client, mut server) = duplex(step);
    let (head, early) = (head.as_ref().to_vec(), early.to_vec());
    tokio::spawn(async move {
        let sent = read_head(&mut server).await;
        let accept = derive_accept_key(headers(&sent)["sec-websocket-key"].as_bytes());
        let mut answer = head;
        while let Some(at) = answer.windows(8).position(|piece| piece == b"{accept}") {
            answer.splice(at..at + 8, accept.bytes());
        }
        // Fails if the client refuses the answer before its end.
        let _ = server.write_all(&[answer, early].concat()).await;
    });
    upgrade(client, &request).await
}

const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
     Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n";

#[tokio::test]
async fn the_request_has_the_headers_that_pveproxy_requires() {
    let head = sent(&request(URL).unwrap()).await;
    assert!(head.len() < MAX_HEAD);
    assert_eq!(
        head.lines().next().unwrap(),
        "GET /api2/json/x?ticket=secret-ticket&socket=%2Frun%2Fx HTTP/1.1"
    );
    let headers = headers(&head);
    assert_eq!(headers["host"], "192.0.2.1:8006");
    assert_eq!(headers["upgrade"], "websocket");
    assert_eq!(headers["connection"], "Upgrade");
    assert_eq!(headers["sec-websocket-version"], "13");
    assert_eq!(headers["sec-websocket-key"].len(), 24, "16 bytes in base64");
    assert_eq!(headers["authorization"], TOKEN);
    assert_eq!(headers.len(), 6, "{head}");
    let again = sent(&request(URL).unwrap()).await;
    assert_ne!(head, again, "each request has a key of its own");
}

#[tokio::test]
async fn the_host_header_has_the_spelling_of_the_url() {
    for (url, host) in [
        ("wss://node.example:8006/x", "node.example:8006"),
        ("wss://[2001:db8::1]:8006/x", "[2001:db8::1]:8006"),
        ("wss://[::1]/x", "[::1]"),
        ("ws://127.0.0.1:80/x", "127.0.0.1:80"),
    ] {
        let head = sent(&request(url).unwrap()).await;
        assert_eq!(headers(&head)["host"], host);
        assert!(head.starts_with("GET /x HTTP/1.1\r\n"));
    }
}

#[test]
fn requests_above_the_limits_of_pveproxy_are_refused() {
    let long = |length: usize| {
        let padding = "x".repeat(length);
        Request::new(URL, [("X-Padding", padding.as_str())])
    };
    // Accepted below the limit, refused at the limit.
    assert!(long(MAX_HEAD - 600).is_ok());
    let longest = (MAX_HEAD - 600..MAX_HEAD)
        .take_while(|&length| long(length).is_ok())
        .last()
        .unwrap();
    // The request line, the five headers of the upgrade, the header of this test, and the empty
    // line.
    let path = URL.split_once("8006").unwrap().1;
    let upgrade = "Host: 192.0.2.1:8006\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \r\n"
        .len()
        + 24;
    let head = format!("GET {path} HTTP/1.1\r\nx-padding: \r\n\r\n").len() + upgrade + longest;
    assert_eq!(head, MAX_HEAD - 1, "below 8 KiB");

    let names: Vec<String> = (0..70).map(|i| format!("x-{i}")).collect();
    let many = |count: usize| Request::new(URL, names[..count].iter().map(|n| (n.as_str(), "v")));
    // The request line and five headers are always sent, and pveproxy accepts 64 lines.
    assert!(many(58).is_ok());
    for count in [59, 64, 70] {
        let error = many(count).err().unwrap().to_string();
        assert!(error.contains("64 lines"), "{error}");
    }
}

#[test]
fn values_that_would_add_lines_to_the_head_are_refused() {
    for value in [
        "secret\r\nX-Evil: 1",
        "secret\nX-Evil: 1",
        "secret\r",
        "secret\0",
        "secret\u{7f}",
    ] {
        let error = Request::new(URL, [("Authorization", value)]).err().unwrap();
        assert_no_secret(&error);
    }
    for name in ["", "A B", "A:", "A\r\nB", "Ä", "secret\0"] {
        let error = Request::new(URL, [(name, "v")]).err().unwrap();
        assert_no_secret(&error);
    }
    for name in ["host", "Upgrade", "CONNECTION", "sec-websocket-key"] {
        assert!(Request::new(URL, [(name, "v")]).is_err(), "{name}");
    }
    for url in [
        "",
        "/secret",
        "secret",
        "wss:///secret",
        "wss://host/secret\r\nX-Evil: 1",
        "wss://host/secret secret",
        "wss://host:8006/x?ticket=secret\n",
        "wss://ho st/secret",
    ] {
        assert_no_secret(&request(url).err().unwrap_or_else(|| panic!("{url:?}")));
    }
}

/// Requires that neither the message nor the Debug output contains a part of the request.
#[track_caller]
fn assert_no_secret(error: &UpgradeError) {
    let text = format!("{error} {error:?}");
    assert!(!text.contains("secret"), "{text}");
    assert!(!text.contains("Evil"), "{text}");
}

#[tokio::test]
async fn an_answer_may_arrive_in_pieces_and_data_after_it_is_kept() {
    for step in [1, 2, 7, 64, 4096] {
        for early in [&b""[..], b"\x82\x03abc", &[0x5a; 3000]] {
            let mut upgraded = answered(ANSWER, early, step).await.unwrap();
            let mut rest = Vec::new();
            upgraded.stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!([upgraded.early, rest].concat(), early, "pieces of {step}");
        }
    }
}

#[tokio::test]
async fn answers_with_other_spellings_are_accepted() {
    for head in [
        "HTTP/1.1 101 \r\nupgrade: WebSocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {accept}\r\n\r\n",
        "HTTP/1.1 101 Fine\r\nServer: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         SEC-WEBSOCKET-ACCEPT:   {accept}  \r\nSec-WebSocket-Extensions:\r\n\r\n",
        "HTTP/1.1 101 Fine\r\nUpgrade: websocket\r\nConnection: keep-alive\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Protocol: \r\nSec-WebSocket-Accept: {accept}\r\nX-Powered-By: p\u{e9}\r\n\r\n",
    ] {
        answered(head, b"", 4096).await.unwrap();
    }
}

/// RFC 9110 §15.2: a client can always receive informational responses before the final one.
#[tokio::test]
async fn informational_answers_before_the_final_one_are_skipped() {
    const EARLY_HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    for informational in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        EARLY_HINTS,
        &["HTTP/1.1 102\r\n\r\n", EARLY_HINTS, EARLY_HINTS].concat(),
        &EARLY_HINTS.repeat(16),
    ] {
        for step in [1, 40, 4096] {
            let upgraded = answered([informational, ANSWER].concat(), b"\x82\x03abc", step).await;
            let mut upgraded = upgraded.unwrap();
            let mut rest = Vec::new();
            upgraded.stream.read_to_end(&mut rest).await.unwrap();
            assert_eq!([upgraded.early, rest].concat(), b"\x82\x03abc");

            let refusal = [informational, "HTTP/1.1 401 No ticket\r\n\r\n"].concat();
            let error = answered(refusal, b"", step).await.err().unwrap();
            assert!(error.to_string().contains("401 No ticket"), "{error}");
        }
    }
}

#[tokio::test]
async fn informational_answers_are_limited_in_number_and_in_length() {
    let error = answered(
        ["HTTP/1.1 100 Continue\r\n\r\n".repeat(17).as_str(), ANSWER].concat(),
        b"",
        4096,
    );
    let error = error.await.err().unwrap();
    assert!(matches!(error, UpgradeError::Response(_)), "{error:?}");
    assert!(
        error.to_string().contains("more than 16 informational"),
        "{error}"
    );

    let long = format!(
        "HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n",
        "x".repeat(4096)
    );
    let error = answered([long.repeat(4).as_str(), ANSWER].concat(), b"", 4096);
    let error = error.await.err().unwrap();
    assert!(matches!(error, UpgradeError::Response(_)), "{error:?}");
    assert!(error.to_string().contains("longer than 16 KiB"), "{error}");

    // The connection ends after an informational answer.
    let error = answered("HTTP/1.1 100 Continue\r\n\r\n", b"", 4096).await;
    assert!(matches!(error, Err(UpgradeError::Closed)));
}

#[tokio::test]
async fn a_reason_outside_ascii_is_reported_on_one_line() {
    for (reason, expected) in [
        (
            "Zugriff für Benutzer verweigert".as_bytes(),
            "Zugriff für Benutzer verweigert",
        ),
        ("認証に失敗しました".as_bytes(), "認証に失敗しました"),
        // ISO-8859-1, which older servers use.
        (
            b"Zugriff f\xfcr Benutzer verweigert",
            "Zugriff für Benutzer verweigert",
        ),
        ("a\u{9b}2Jx\u{85}y".as_bytes(), "a 2Jx y"),
        (b"a\tb", "a b"),
    ] {
        for step in [1, 4096] {
            let head = [b"HTTP/1.1 401 ", reason, b"\r\nX: y\r\n\r\n"].concat();
            let error = answered(head, b"", step).await.err().unwrap();
            let text = error.to_string();
            assert!(text.ends_with(&format!(": 401 {expected}")), "{text:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_is_reported_with_status_and_reason() {
    for (head, status, reason) in [
        ("HTTP/1.1 401 No ticket\r\n\r\n", 401, "No ticket"),
        (
            "HTTP/1.0 500 unable to connect\r\nX: y\r\n\r\nbody",
            500,
            "unable to connect",
        ),
        (
            "HTTP/1.1 501 method 'GET' not implemented\r\n\r\n",
            501,
            "method 'GET' not implemented",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, "OK"),
        ("HTTP/1.1 302\r\nLocation: /elsewhere\r\n\r\n", 302, ""),
    ] {
        for step in [1, 4096] {
            let error = answered(head, b"", step).await.err().unwrap();
            assert_no_secret(&error);
            let text = error.to_string();
            let UpgradeError::Refused {
                status: s,
                reason: r,
            } = error
            else {
                panic!("{error:?}")
            };
            assert_eq!((s, r.as_str()), (status, reason));
            assert!(text.contains(&format!("{status} {reason}")), "{text}");
        }
    }
}

#[tokio::test]
async fn malformed_answers_are_refused_with_the_reason() {
    let with = |from: &str, to: &str| ANSWER.replace(from, to);
    let many: String = (0..65).map(|i| format!("X-{i}: y\r\n")).collect();
    let long = format!("X: {}\r\n", "x".repeat(17 * 1024));
    for (head, expected) in [
        (with("{accept}", "c2VjcmV0"), "does not match the key"),
        (
            with("Sec-WebSocket-Accept: {accept}\r\n", ""),
            "does not match the key",
        ),
        (
            with("Upgrade: websocket\r\n", ""),
            "no 'Upgrade: websocket'",
        ),
        (
            with("Upgrade: websocket", "Upgrade: h2c"),
            "no 'Upgrade: websocket'",
        ),
        (
            with("Connection: Upgrade", "Connection: close"),
            "no 'Connection: Upgrade'",
        ),
        (with("HTTP/1.1", "HTTP/1.0"), "not HTTP/1.1"),
        (with("HTTP/1.1", "SSH-2.0"), "not HTTP/1.1"),
        (
            with(
                "\r\n\r\n",
                "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
            ),
            "an extension that was not requested",
        ),
        (
            with("\r\n\r\n", "\r\nSec-WebSocket-Protocol: binary\r\n\r\n"),
            "a subprotocol that was not requested",
        ),
        (
            with("Upgrade: websocket\r\n", &many),
            "more than 64 headers",
        ),
        (with("Upgrade: websocket\r\n", &long), "longer than 16 KiB"),
        ("garbage\r\n\r\n".to_owned(), "not HTTP/1.1"),
    ] {
        let error = answered(&head, b"", 4096).await.err().unwrap();
        assert_no_secret(&error);
        assert!(matches!(error, UpgradeError::Response(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_selection_that_is_not_text_is_refused() {
    for name in ["Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"] {
        let head = ANSWER.strip_suffix("\r\n").unwrap();
        let head = [head.as_bytes(), name.as_bytes(), b": \xff\r\n\r\n"].concat();
        let error = answered(head, b"", 4096).await.err().unwrap();
        assert!(error.to_string().contains("was not requested"), "{error}");
    }
}

#[tokio::test]
async fn an_end_inside_the_answer_is_reported() {
    for length in [0, 1, 20, ANSWER.len() - 2] {
        let request = request(URL).unwrap();
        let (client, mut server) = duplex(1 << 16);
        let (result, ()) = tokio::join!(upgrade(client, &request), async move {
            read_head(&mut server).await;
            server
                .write_all(&ANSWER.as_bytes()[..length])
                .await
                .unwrap();
        });
        let error = result.err().unwrap();
        assert!(matches!(error, UpgradeError::Closed), "{error:?}");
    }
}
