//! Programs at the ends of a connection, and what they hear of its failure.

use crate::pattern;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// How a stream ended for one who wrote or read, and when: none is an end of stream.
pub type End = (Option<ErrorKind>, Instant);

const RESET: Option<ErrorKind> = Some(ErrorKind::ConnectionReset);

/// Says something each way, so that the kernel can tell both programs of a failure.
pub fn acquaint(source: &UnixStream, target: &UnixStream) {
    for (mut from, mut to) in [(source, target), (target, source)] {
        from.write_all(b"!").unwrap();
        to.read_exact(&mut [0]).unwrap();
    }
}

/// Writes until that fails.
pub fn pushes(stream: &UnixStream) -> JoinHandle<End> {
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

/// Reads until that ends; counts.
pub fn takes(stream: &UnixStream) -> (Arc<AtomicUsize>, JoinHandle<End>) {
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

/// A program that only reads has heard of the failure.
pub fn hears(taking: JoinHandle<End>) -> Instant {
    let (end, when) = taking.join().unwrap();
    assert_eq!(end, RESET);
    when
}

/// So has one that writes and reads at the same time, at least when writing: the kernel tells it of
/// the reset once, and to a call that had written some already it tells nothing.
pub fn cannot_go_on(pushing: JoinHandle<End>, taking: JoinHandle<End>) -> Instant {
    when_pushing_failed(pushing).max(taking.join().unwrap().1)
}

/// A program that writes has heard of the failure.
pub fn when_pushing_failed(pushing: JoinHandle<End>) -> Instant {
    let (pushed, when) = pushing.join().unwrap();
    assert!(
        [RESET, Some(ErrorKind::BrokenPipe)].contains(&pushed),
        "{pushed:?}"
    );
    when
}
