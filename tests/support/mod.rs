//! A scripted target and a connector beside it.
//!
//! The target speaks real TLS (rustls) and real websockets (tungstenite), one thread a connection;
//! each test says in a closure what the target does. The connector is the real command, in a
//! process of its own.
#![allow(dead_code, unreachable_pub, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod cable;
pub mod connector;
pub mod direct;
pub mod listener;
pub mod namespace;
pub mod relay;
pub mod role;
pub mod seam;
pub mod source;
pub mod stream;
pub mod target;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

/// Bytes that repeat at no power of two, so that a lost or doubled piece never goes unseen.
pub fn pattern(length: usize) -> Vec<u8> {
    const PERIOD: usize = 65_521;
    let period: Vec<u8> = (0..PERIOD)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    (0..length).map(|i| period[i % PERIOD]).collect()
}

/// SHA-256 in hexadecimal.
pub fn sha256(data: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, data);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Resident memory of a process, in KiB, at its highest so far.
pub fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The state of a process, as a letter (man 5 proc); none if there is no such process.
pub fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // It comes after the name, which is in parentheses and may hold any more of them.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether a process has ended, reaped or not.
pub fn is_gone(pid: u32) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

/// Sends a signal to a process.
pub fn signal(name: &str, pid: u32) {
    let status = std::process::Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// Waits for something that happens by itself.
pub fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !happened() {
        assert!(std::time::Instant::now() < limit, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Reads to the end; what came, and how it ended.
pub fn read_out(mut stream: impl Read) -> (Vec<u8>, std::io::Result<()>) {
    let mut all = Vec::new();
    let end = stream.read_to_end(&mut all).map(drop);
    (all, end)
}

/// Writes in odd pieces.
pub fn write_in_pieces(mut stream: impl Write, data: &[u8]) -> std::io::Result<()> {
    let mut rest = data;
    for size in [1, 4095, 131_073, 70_000, 3].into_iter().cycle() {
        if rest.is_empty() {
            return Ok(());
        }
        let (piece, after) = rest.split_at(size.min(rest.len()));
        stream.write_all(piece)?;
        rest = after;
    }
    Ok(())
}

/// Two connected UNIX sockets and two connected TCP sockets.
pub fn sockets(address: &str) -> ([UnixStream; 2], [TcpStream; 2]) {
    let (near, local) = UnixStream::pair().unwrap();
    let listener = TcpListener::bind(address).unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (wire, _) = listener.accept().unwrap();
    far.set_nodelay(true).unwrap();
    ([near, local], [far, wire])
}

/// A fixed sequence of numbers that looks like none.
pub fn random(seed: u32) -> impl FnMut(u32) -> u32 {
    let mut state = seed;
    move |bound| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % bound
    }
}
