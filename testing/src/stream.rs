//! Programs at both ends of a connection, and the errors that they receive when it fails.

use crate::pattern;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// How a program's writing or reading ended, and when. None is an end of stream.
pub type End = (Option<ErrorKind>, Instant);

const RESET: Option<ErrorKind> = Some(ErrorKind::ConnectionReset);

/// Sends one byte in each direction. Afterwards the kernel can report a reset to both programs.
pub fn exchange_bytes(source: &UnixStream, target: &UnixStream) {
    for (mut from, mut to) in [(source, target), (target, source)] {
        from.write_all(b"!").unwrap();
        to.read_exact(&mut [0]).unwrap();
    }
}

/// Writes until an error, in a thread.
pub fn write_until_failure(stream: &UnixStream) -> JoinHandle<End> {
    let mut stream = stream.try_clone().unwrap();
    thread::spawn(move || {
        let data = pattern(1 << 20);
        loop {
            if let Err(error) = stream.write_all(&data) {
                return (Some(error.kind()), Instant::now());
            }
        }
    })
}

/// Reads until the end of the stream or an error, in a thread. Also returns the count of bytes.
pub fn read_until_end(stream: &UnixStream) -> (Arc<AtomicUsize>, JoinHandle<End>) {
    let mut stream = stream.try_clone().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return (None, Instant::now()),
                Ok(count) => counter.fetch_add(count, Ordering::Relaxed),
                Err(error) => return (Some(error.kind()), Instant::now()),
            };
        }
    });
    (count, reader)
}

/// Requires that a reader ended with a reset. Returns when.
pub fn expect_reset(reader: JoinHandle<End>) -> Instant {
    let (end, when) = reader.join().unwrap();
    assert_eq!(end, RESET);
    when
}

/// Requires that the writer of a program that writes and reads at the same time failed. Returns
/// when both had ended. The kernel reports a reset once, to either call. It does not report it to a
/// call that has already written a part.
pub fn expect_both_fail(writer: JoinHandle<End>, reader: JoinHandle<End>) -> Instant {
    expect_write_failure(writer).max(reader.join().unwrap().1)
}

/// Requires that a writer failed. Returns when.
pub fn expect_write_failure(writer: JoinHandle<End>) -> Instant {
    let (end, when) = writer.join().unwrap();
    assert!(
        [RESET, Some(ErrorKind::BrokenPipe)].contains(&end),
        "{end:?}"
    );
    when
}
