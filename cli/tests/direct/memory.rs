//! No unused copy of a secret stays in the memory of the connector and of the listener, and neither
//! process can be dumped.

use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use testing::connector::{Connector, TOKEN};
use testing::seam::{NegotiatedTunnel, Seam, plane_request};
use testing::stream::exchange_bytes;
use testing::{copies_in_memory, report_skipped, role, signal};

/// The answer of the scripted worker to a request for a ticket.
const TICKET: &str = "TICKET=+ 1/2%";

/// The same as a part of a URL.
const ENCODED_TICKET: &str = "TICKET%3D%2B%201%2F2%25";

const CONTROL_TICKET: &str = "PVETUNNEL-control-6f1c3e0a";

/// The part of the token that is confidential.
fn token_secret() -> &'static str {
    TOKEN.rsplit_once('=').unwrap().1
}

/// Requires these numbers of copies in the memory of a process.
#[track_caller]
fn assert_copies(process: &str, pid: u32, expected: &[(&str, &[u8], usize)]) {
    let texts: Vec<&[u8]> = expected.iter().map(|(_, text, _)| *text).collect();
    let found = match copies_in_memory(pid, &texts) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return report_skipped("the search in another process: not root", &error);
        }
        found => found.unwrap(),
    };
    let named = expected.iter().map(|(name, ..)| *name);
    let found: Vec<_> = named.clone().zip(found).collect();
    let expected: Vec<_> = named
        .zip(expected.iter().map(|(.., count)| *count))
        .collect();
    assert_eq!(found, expected, "copies in the memory of the {process}");
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let digits = digits.map(|pair| std::str::from_utf8(pair).unwrap());
    digits
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

#[test]
fn a_websocket_leaves_no_ticket_and_no_copy_of_the_token() {
    let target = Seam::default().target();
    let mut connector = Connector::start();
    let url = target.url(&format!("ticket={CONTROL_TICKET}&socket=%2Frun%2Fmtunnel"));
    connector.connect_to(&url, Some(target.fingerprint));
    connector.request(&json!({ "cmd": "version" }));
    let pid = connector.child.id();
    assert_copies(
        "connector",
        pid,
        &[
            ("the token", token_secret().as_bytes(), 0),
            (
                "the ticket of the control connection",
                CONTROL_TICKET.as_bytes(),
                0,
            ),
        ],
    );

    let echo = connector.open(&target, "/run/echo");
    exchange_bytes(&echo, &echo);
    assert_copies(
        "connector",
        pid,
        &[
            // The forward needs it for its next connection.
            ("the token", token_secret().as_bytes(), 1),
            ("the ticket", TICKET.as_bytes(), 0),
            ("the ticket in a URL", ENCODED_TICKET.as_bytes(), 0),
            (
                "the ticket of the control connection",
                CONTROL_TICKET.as_bytes(),
                0,
            ),
        ],
    );
}

#[test]
fn a_direct_connection_leaves_one_session_key() {
    for (plane, kind) in [("tls", "secure"), ("tcp", "insecure")] {
        let seam = Seam::with_listeners(role::listeners());
        let mut tunnel = NegotiatedTunnel::on_plane(plane, seam, &plane_request(kind));
        let (source, target) = tunnel.pair();
        exchange_bytes(&source, &target);
        let (listener, hex) = {
            let listener = tunnel.seam.listener.lock().unwrap();
            let listener = listener.as_ref().unwrap();
            let hex = listener.opened["key"].as_str().unwrap().to_owned();
            (listener.pid(), hex)
        };
        let key = bytes_of(&hex);
        let expected = [
            ("the token", token_secret().as_bytes(), 0),
            ("the key", &key[..], 1),
            ("the key in hexadecimal digits", hex.as_bytes(), 0),
        ];
        assert_copies("connector", tunnel.connector.child.id(), &expected);
        assert_copies("listener", listener, &expected);
    }
}

#[test]
fn neither_process_can_be_dumped() {
    let seam = Seam::with_listeners(role::listeners());
    let tunnel = NegotiatedTunnel::on_plane("tls", seam, &plane_request("secure"));
    let connector = tunnel.connector.child.id();
    for pid in [connector, tunnel.seam.listener_pid()] {
        let unlimited = Command::new("prlimit")
            .args([&format!("--pid={pid}"), "--core=unlimited"])
            .status();
        assert!(unlimited.unwrap().success());
        // The files of a process that is not dumpable belong to root (proc(5)).
        let owner = std::fs::metadata(format!("/proc/{pid}/maps"))
            .unwrap()
            .uid();
        assert_eq!(owner, 0, "the owner of /proc/{pid}");
    }
    let listener = tunnel.seam.take_listener();
    signal("ABRT", listener.pid());
    let (status, _) = listener.wait();
    assert_eq!(status.signal(), Some(6));
    assert!(!status.core_dumped(), "the listener wrote a core");
    signal("ABRT", connector);
    let mut connector = tunnel.connector;
    let status = connector.child.wait().unwrap();
    assert_eq!(status.signal(), Some(6));
    assert!(!status.core_dumped(), "the connector wrote a core");
}
