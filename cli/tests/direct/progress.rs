//! Progress lines during a migration, and the record at its end.

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};
use testing::seam::{NegotiatedTunnel, Seam, plane_request, plane_request_with};
use testing::wait_until;

/// The interval between two lines about progress.
const INTERVAL: Duration = Duration::from_secs(10);

fn transfer(count: usize, mut from: &UnixStream, mut to: &UnixStream) {
    from.write_all(&vec![7; count]).unwrap();
    to.read_exact(&mut vec![0; count]).unwrap();
}

#[test]
fn a_migration_has_one_line_every_ten_seconds_with_its_total_and_the_time_left() {
    let started = Instant::now();
    let mut tunnel = NegotiatedTunnel::on_plane("tls", Seam::default(), &plane_request("secure"));
    // The connector takes the sizes from the commands that qemu-server sends to the worker.
    for command in [
        json!({ "cmd": "disk", "drive": { "size": 1 << 30 } }),
        json!({ "cmd": "config", "conf": "memory: 2048\n" }),
    ] {
        tunnel.connector.request(&command);
    }
    let volume = tunnel.pair();
    transfer(3 << 10, &volume.0, &volume.1);
    drop(volume);
    let disks = tunnel.pair_at("100_nbd.migrate");
    let ram = tunnel.pair_at("100.migrate");
    let lines = |prefix: &str| {
        let logged = tunnel.connector.logged().into_iter();
        logged
            .filter(|(_, line)| line.starts_with(prefix))
            .collect::<Vec<_>>()
    };
    let mut moved = 0;
    wait_until_for(INTERVAL * 6, "two lines", || {
        transfer(1 << 10, &disks.0, &disks.1);
        transfer(10, &disks.1, &disks.0);
        moved += 1;
        // A pause between transfers limits the load.
        sleep(Duration::from_millis(20));
        lines("progress: ").len() >= 2
    });
    // One more line after the end of the transfers.
    wait_until_for(INTERVAL * 3, "a line without data", || {
        sleep(Duration::from_millis(100));
        lines("progress: ").last().unwrap().1.contains("no data")
    });

    let progress = lines("progress: ");
    let slack = Duration::from_millis(500);
    for (number, (at, line)) in (1..).zip(&progress) {
        assert!(*at - started + slack >= number * INTERVAL, "{progress:?}");
        // The volume that was transferred before is part of the total.
        assert!(line.contains(" of about 3.0 GiB (0 %), "), "{line}");
    }
    for (_, line) in &progress[..2] {
        // The test waits between two transfers.
        let end = " left, limited by the reading at the source";
        assert!(line.contains("/s, ") && line.ends_with(end), "{line}");
    }
    assert!(progress.len() <= 4, "{progress:?}");
    let last = &progress.last().unwrap().1;
    assert!(last.ends_with(", no data in the last 10 s"), "{last}");
    drop((disks, ram));

    let (record, finished) = tunnel.finish();
    assert_eq!(record["sent"], (moved << 10) + (3 << 10), "{record}");
    assert_eq!(record["received"], moved * 10, "{record}");
    assert_eq!(record["forwards"], 3, "{record}");
    // Each connection has a line about its end, and each forward one about the end of its data.
    let of_forwards: Vec<&str> = finished
        .log
        .lines()
        .filter(|line| line.starts_with("forward '"))
        .collect();
    assert_eq!(of_forwards.len(), 6, "{of_forwards:?}");
    let ends = of_forwards
        .iter()
        .filter(|line| line.contains(": its connections have ended: "));
    assert_eq!(ends.count(), 3, "{of_forwards:?}");
}

/// Waits as [`wait_until`] does, with this limit.
fn wait_until_for(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < limit, "never: {what}");
    }
}

/// The record line of a log, of which there is exactly one.
fn record_in(log: &str) -> Value {
    let lines: Vec<&str> = log
        .lines()
        .filter_map(|line| line.strip_prefix("record: "))
        .collect();
    assert_eq!(lines.len(), 1, "{log}");
    serde_json::from_str(lines[0]).unwrap()
}

fn is_fingerprint(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.len() == 95
        && text
            .split(':')
            .all(|byte| u8::from_str_radix(byte, 16).is_ok())
}

#[test]
fn the_record_has_the_figures_of_each_plane() {
    for (kind, planes, plane) in [
        ("secure", json!(["tls", "tcp"]), "tls"),
        ("insecure", json!(["tls", "tcp"]), "tcp"),
        ("secure", json!([]), "websocket"),
    ] {
        let request = plane_request_with(kind, &json!({ "planes": planes }));
        let mut tunnel = NegotiatedTunnel::on_plane(plane, Seam::default(), &request);
        let announced = tunnel.answer["direct"].clone();
        if plane == "websocket" {
            // Every socket of the websocket plane echoes.
            let mut local = tunnel.connector.open(&tunnel.target, "/run/echo");
            local.write_all(&[7; 1000]).unwrap();
            local.read_exact(&mut [0; 1000]).unwrap();
        } else {
            let (source, target) = tunnel.pair();
            transfer(1000, &source, &target);
            transfer(1000, &target, &source);
        }
        let api = tunnel.target.address.to_string();
        // The connection has ended and is counted.
        let log = || tunnel.connector.logged();
        wait_until("the connection has ended", || {
            log()
                .iter()
                .any(|(_, line)| line.contains("closed (1000 bytes"))
        });
        let (record, finished) = tunnel.finish();
        assert_eq!(record, record_in(&finished.log));
        let is_summary = |line: &&str| line.starts_with("migration data: plane ");
        assert_eq!(finished.log.lines().filter(is_summary).count(), 1);

        assert_eq!(record["plane"], plane, "{record}");
        assert_eq!(record["forwards_plane"], plane, "{record}");
        for (count, expected) in [
            ("sent", 1000),
            ("received", 1000),
            ("forwards", 1),
            ("connections", 1),
            ("failed", 0),
        ] {
            assert_eq!(record[count], expected, "{count}: {record}");
        }
        assert!(record["seconds"].as_f64().unwrap() > 0.0, "{record}");
        assert_eq!(record["local"], "127.0.0.1", "{record}");
        let cipher = record["cipher"].as_str().unwrap();
        assert_eq!(cipher.starts_with("TLSv1_3 "), plane != "tcp", "{record}");
        assert_eq!(cipher == "UNENCRYPTED", plane == "tcp", "{record}");
        if plane == "websocket" {
            assert_eq!(record["remote"], *api, "{record}");
            assert_eq!(record["protocol"], Value::Null, "{record}");
            assert_eq!(record["refused"], Value::Null, "{record}");
        } else {
            let remote = format!("127.0.0.1:{}", announced["port"]);
            assert_eq!(record["remote"], *remote, "{record}");
            assert_eq!(record["protocol"], 1, "{record}");
            let refused = record["refused"].as_object().unwrap();
            let names: Vec<&str> = refused.keys().map(String::as_str).collect();
            let reasons = [
                "crowded",
                "heartbeat",
                "key",
                "malformed",
                "number",
                "silent",
                "socket",
                "tls",
            ];
            assert_eq!(names, reasons, "{record}");
            assert!(refused.values().all(|count| *count == 0), "{record}");
        }
        for (name, expected) in [
            ("fingerprint", plane != "tcp"),
            ("own_fingerprint", plane == "tls"),
        ] {
            assert_eq!(is_fingerprint(&record[name]), expected, "{name}: {record}");
            assert_eq!(record[name].is_null(), !expected, "{name}: {record}");
        }
    }
}

#[test]
fn refused_connections_are_in_the_record() {
    let mut tunnel = NegotiatedTunnel::on_plane("tcp", Seam::default(), &plane_request("insecure"));
    let unused = tunnel.directory.path().join("unused");
    let local = tunnel.open(&unused);
    assert!(testing::read_to_end(&local).1.is_err());
    let (record, finished) = tunnel.finish();
    assert_eq!(record["refused"]["socket"], 1, "{record}");
    assert_eq!(
        (&record["failed"], &record["connections"]),
        (&json!(1), &json!(0)),
        "{record}"
    );
    assert!(
        finished
            .log
            .contains("the target's socket does not accept a connection"),
        "{}",
        finished.log
    );
}
