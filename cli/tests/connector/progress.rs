//! The lines about the data of a forward: at its end once, with the rate over the time it was open.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use testing::connector::Connector;
use testing::target::{Request, Target, close_cleanly, serve_worker, stock_answer};
use tungstenite::Message;

const LENGTH: usize = 32 << 20;

/// Reads everything, and ends after the client.
fn consume(request: Request) {
    let mut websocket = request.websocket();
    while !matches!(websocket.read(), Ok(Message::Close(_)) | Err(_)) {}
    close_cleanly(websocket.into_inner());
}

/// The number before the unit, in MiB.
fn mebibytes(text: &str) -> f64 {
    let (number, unit) = text.split_once(' ').unwrap();
    let factor = match unit {
        "KiB" => 1.0 / 1024.0,
        "MiB" => 1.0,
        "GiB" => 1024.0,
        other => panic!("unexpected unit {other}"),
    };
    number.parse::<f64>().unwrap() * factor
}

#[test]
fn the_end_of_a_forward_is_logged_once_with_the_rate_over_its_open_time() {
    let target = Target::new(|request| match request.socket() {
        "/run/mtunnel" => serve_worker(request, stock_answer),
        _ => consume(request),
    });
    let mut connector = Connector::connected(&target);
    let path = connector.forward(&target, "/disk");
    // Time in which no connection is open does not count.
    std::thread::sleep(Duration::from_secs(2));
    let mut locals: Vec<UnixStream> = (0..2)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    for local in &mut locals {
        local.write_all(&vec![7; LENGTH]).unwrap();
    }
    for mut local in locals {
        local.shutdown(Shutdown::Write).unwrap();
        local.read_to_end(&mut Vec::new()).unwrap();
    }
    let name = format!("forward '{}': ", path.display());
    let logged = connector.finish().log;
    let lines: Vec<&str> = logged
        .lines()
        .filter_map(|line| line.strip_prefix(&name))
        .filter(|line| !line.starts_with("connection "))
        .collect();
    assert_eq!(lines.len(), 1, "{logged}");
    let end = lines[0]
        .strip_prefix("its connections have ended: 64.0 MiB sent, 0 B received in ")
        .unwrap_or_else(|| panic!("{logged}"));
    let (seconds, rate) = end.split_once(" s, ").unwrap();
    let (seconds, rate) = (
        seconds.parse::<f64>().unwrap(),
        // What limited the data follows if it took more than a second.
        mebibytes(rate.split_once("/s").unwrap().0),
    );
    // The time is rounded to a tenth of a second, and the rate is not.
    assert!(
        rate * (seconds - 0.06) <= 64.1 && rate * (seconds + 0.06) >= 63.9,
        "{end}"
    );
}
