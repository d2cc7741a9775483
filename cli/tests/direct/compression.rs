//! Compressed streams over a slow link.

use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;
use testing::cable::plane_request;
use testing::link::{Link, on_link};
use testing::seam::{NegotiatedTunnel, Seam, plane_request_with};
use testing::{wait_until, write_in_pieces};

/// Bytes of IP packets per second: much less than a core compresses.
const RATE: u64 = 8_000_000;

/// More than the buffers of the path hold.
const LENGTH: usize = 32 << 20;

/// Text of this length, which compresses well.
fn text(bytes: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|line: u32| format!("{line}: a line of a file\n").into_bytes());
    lines.take(bytes).collect()
}

fn tunnel(link: &Link, plane: &str, lanes: u16, compression: &str) -> NegotiatedTunnel {
    link.set_rate(RATE);
    link.set_round_trip(Duration::from_millis(10));
    let fields = json!({
        "lanes": lanes, "first_lanes": lanes, "compression": compression, "dead_peer_timeout": 12,
    });
    NegotiatedTunnel::on_plane(plane, link.seam(), &plane_request(plane, &fields))
}

/// Reads to the end, and counts meanwhile.
fn read_all(mut from: &UnixStream, count: &AtomicUsize) -> Vec<u8> {
    let mut data = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer).unwrap() {
            0 => return data,
            bytes => {
                data.extend_from_slice(&buffer[..bytes]);
                count.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }
}

/// Moves data to the target and compares it there. Returns the record.
fn transfer(tunnel: NegotiatedTunnel, data: &[u8]) -> Value {
    // Without a pause: a lane that waits for its source does not compress.
    transfer_in_parts(tunnel, (data, &[]), |_, _| {})
}

/// The second part of the data is written when this is dropped.
type SecondPart = Sender<()>;

/// The same in two parts. `interrupt` runs when the first one has arrived.
fn transfer_in_parts(
    mut tunnel: NegotiatedTunnel,
    (first, second): (&[u8], &[u8]),
    interrupt: impl FnOnce(&NegotiatedTunnel, SecondPart),
) -> Value {
    let (source, target) = tunnel.pair();
    let (second_part, dropped) = channel();
    let count = AtomicUsize::new(0);
    thread::scope(|scope| {
        let reader = scope.spawn(|| read_all(&target, &count));
        let writer = &source;
        scope.spawn(move || {
            write_in_pieces(writer, first).unwrap();
            dropped.recv().unwrap_err();
            write_in_pieces(writer, second).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let arrived = || count.load(Ordering::Relaxed) == first.len();
        wait_until("the first part has arrived", arrived);
        interrupt(&tunnel, second_part);
        let received = reader.join().unwrap();
        assert!(
            received == [first, second].concat(),
            "{} bytes",
            received.len()
        );
    });
    drop((source, target));
    let (record, ended) = tunnel.finish();
    assert_eq!(record["failed"], 0, "{record}\n{}", ended.log);
    assert_eq!(record["sent"], first.len() + second.len(), "{record}");
    record
}

fn saved(record: &Value) -> u64 {
    record["lanes"]["compressed"].as_u64().unwrap()
}

#[test]
fn data_is_compressed_where_the_link_is_slow() {
    for (plane, lanes) in [("tls", 1), ("tls", 3), ("tcp", 1)] {
        on_link(move |link| {
            let tunnel = tunnel(link, plane, lanes, "zstd");
            assert_eq!(tunnel.answer["direct"]["protocol"], 2, "{}", tunnel.answer);
            let record = transfer(tunnel, &text(LENGTH));
            assert!(
                saved(&record) > LENGTH as u64 / 2,
                "{plane} {lanes}: {record}"
            );
        });
    }
}

#[test]
fn compressed_data_that_is_lost_with_its_lanes_is_sent_again() {
    on_link(|link| {
        let tunnel = tunnel(link, "tls", 2, "zstd");
        let text = text(LENGTH);
        let parts = text.split_at(LENGTH / 2);
        let record = transfer_in_parts(tunnel, parts, |tunnel, second_part| {
            link.set_loss(1.0);
            drop(second_part);
            wait_until("a lane fails", || {
                let lines = tunnel.connector.logged();
                lines.iter().any(|(_, line)| line.contains("failed: "))
            });
            link.set_loss(0.0);
        });
        assert!(saved(&record) > 0, "{record}");
        assert!(record["lanes"]["reopened"].as_u64() > Some(0), "{record}");
        assert!(record["lanes"]["resent"].as_u64() > Some(0), "{record}");
    });
}

#[test]
fn nothing_is_compressed_without_a_request() {
    on_link(|link| {
        let record = transfer(tunnel(link, "tls", 2, "none"), &text(8 << 20));
        assert_eq!(saved(&record), 0, "{record}");
    });
}

#[test]
fn data_that_does_not_become_smaller_is_sent_as_it_is() {
    on_link(|link| {
        let mut data = vec![0; 16 << 20];
        let mut random = File::open("/dev/urandom").unwrap();
        random.read_exact(&mut data).unwrap();
        let record = transfer(tunnel(link, "tls", 1, "zstd"), &data);
        assert_eq!(saved(&record), 0, "{record}");
    });
}

/// A target of an earlier version, whose offer does not name the compression, or not in this form.
#[test]
fn a_target_that_does_not_accept_compressed_data_gets_it_as_it_is() {
    for (offered, lanes, protocol) in [(json!(null), 1, 1), (json!({ "zstd": 1 }), 2, 2)] {
        let seam = Seam::scripted(move |request, default_answer| {
            let mut answer = default_answer();
            if request["op"] == "hello" {
                answer["direct"]["compression"] = offered.clone();
            }
            answer
        });
        let request =
            plane_request_with("secure", &json!({ "compression": "zstd", "lanes": lanes }));
        let tunnel = NegotiatedTunnel::on_plane("tls", seam, &request);
        let answer = tunnel.answer.clone();
        assert_eq!(answer["direct"]["protocol"], protocol, "{answer}");
        let (_, ended) = tunnel.finish();
        let expected =
            "the target's pve-tunnel does not accept compressed data: it is sent as it is";
        assert!(ended.log.contains(expected), "{}", ended.log);
    }
}
