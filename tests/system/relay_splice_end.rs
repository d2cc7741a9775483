//! The end of a relay between a local socket and a TCP socket: the sender or reader of data that
//! did not arrive receives an error, and data that did arrive is not lost.

use pve_tunnel::relay::RelayError;
use socket2::SockRef;
use std::io::ErrorKind::{self, BrokenPipe, ConnectionReset};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use testing::relay::{LOOPBACKS, Relay};
use testing::{pattern, read_to_end};

/// A length that fits in the queues of a sender.
const LENGTH: usize = 1 << 20;

/// Closes a connection with a reset, as the kernel does for a killed process that has enabled it.
fn reset(far: TcpStream) {
    let linger = Some(Duration::ZERO);
    SockRef::from(&far).set_linger(linger).unwrap();
}

fn read_exactly(mut stream: impl Read, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    stream.read_exact(&mut data).unwrap();
    data
}

/// Writes until an error. Returns its kind.
fn write_until_error(mut stream: impl Write) -> ErrorKind {
    let piece = vec![7; 64 << 10];
    loop {
        if let Err(error) = stream.write(&piece) {
            return error.kind();
        }
    }
}

/// Reads until a reset. Returns the data before it.
fn read_until_reset(stream: impl Read) -> Vec<u8> {
    let (data, end) = read_to_end(stream);
    assert_eq!(end.unwrap_err().kind(), ConnectionReset);
    data
}

#[test]
fn a_reset_of_an_idle_connection_is_not_an_end_of_stream() {
    for address in LOOPBACKS {
        let (mut near, mut far, relay) = Relay::start(address);
        near.write_all(b"request").unwrap();
        read_exactly(&far, 7);
        far.write_all(b"part of an answer").unwrap();
        read_exactly(&near, 17);
        reset(far);
        let result = relay.result();
        assert!(matches!(result, Err(RelayError::Truncated)), "{result:?}");
        assert_eq!(read_until_reset(near), b"");
    }
}

#[test]
fn a_reset_during_transfer_is_an_error_for_the_reader() {
    let data = pattern(LENGTH);
    for address in LOOPBACKS {
        let (mut near, mut far, relay) = Relay::start(address);
        near.write_all(b"request").unwrap();
        read_exactly(&far, 7);
        thread::scope(|scope| {
            scope.spawn(|| {
                far.write_all(&data).unwrap();
                reset(far);
            });
            let read = read_until_reset(near);
            assert!(data.starts_with(&read));
        });
        let result = relay.result();
        assert!(matches!(result, Err(RelayError::Truncated)), "{result:?}");
    }
}

#[test]
fn a_reset_during_transfer_is_an_error_for_the_writer() {
    for address in LOOPBACKS {
        let (near, far, relay) = Relay::start(address);
        thread::scope(|scope| {
            let writer = scope.spawn(|| write_until_error(&near));
            read_exactly(&far, LENGTH);
            reset(far);
            let kind = writer.join().unwrap();
            assert!(matches!(kind, BrokenPipe | ConnectionReset), "{kind:?}");
        });
        // The result depends on which direction the relay polls first.
        let result = relay.result();
        assert!(
            matches!(result, Err(RelayError::Truncated | RelayError::Send(_))),
            "{result:?}"
        );
    }
}

#[test]
fn a_reset_after_the_end_of_one_direction_is_detected_without_sending() {
    for address in LOOPBACKS {
        let (mut near, far, relay) = Relay::start(address);
        near.write_all(b"request").unwrap();
        read_exactly(&far, 7);
        far.shutdown(Shutdown::Write).unwrap();
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        reset(far);
        let result = relay.result();
        assert!(matches!(result, Err(RelayError::Send(_))), "{result:?}");
        assert_eq!(near.read(&mut [0]).unwrap_err().kind(), ConnectionReset);
    }
}

#[test]
fn data_for_a_closed_socket_is_an_error() {
    for address in LOOPBACKS {
        let (near, far, relay) = Relay::start(address);
        drop(far);
        assert_eq!((&near).read(&mut [0]).unwrap(), 0);
        let kind = write_until_error(&near);
        assert!(matches!(kind, BrokenPipe | ConnectionReset), "{kind:?}");
        let result = relay.result();
        assert!(matches!(result, Err(RelayError::Send(_))), "{result:?}");
    }
}

#[test]
fn a_program_that_closes_after_its_last_data_ends_cleanly() {
    let data = pattern(LENGTH);
    for address in LOOPBACKS {
        for length in [0, 1, LENGTH] {
            let (mut near, far, relay) = Relay::start(address);
            let sent = &data[..length];
            thread::scope(|scope| {
                scope.spawn(move || {
                    near.write_all(sent).unwrap();
                    drop(near);
                });
                let (read, end) = read_to_end(&far);
                end.unwrap();
                assert!(read == sent);
            });
            drop(far);
            relay.result().unwrap();
        }
    }
}

#[test]
fn a_program_that_closes_with_unread_data_is_an_error_and_its_data_arrives() {
    let data = pattern(LENGTH);
    for address in LOOPBACKS {
        let (mut near, mut far, relay) = Relay::start(address);
        // So small that most of the data waits in this node's queues.
        let queue = SockRef::from(&far);
        queue.set_recv_buffer_size(64 << 10).unwrap();
        far.write_all(b"never read").unwrap();
        // Peeking leaves the data unread.
        while SockRef::from(&near)
            .peek(&mut [std::mem::MaybeUninit::uninit()])
            .unwrap()
            == 0
        {}
        near.write_all(&data).unwrap();
        drop(near);
        while relay.counters.sent.load(Ordering::Relaxed) < LENGTH as u64 {
            thread::yield_now();
        }
        assert!(read_until_reset(&far) == data);
        let result = relay.result();
        assert!(matches!(result, Err(RelayError::Undelivered)), "{result:?}");
    }
}

#[test]
fn data_for_a_closed_program_is_an_error_for_its_sender() {
    for address in LOOPBACKS {
        let (mut near, far, relay) = Relay::start(address);
        near.write_all(b"final data").unwrap();
        drop(near);
        // The program had read all data, so this direction ended cleanly.
        let (read, end) = read_to_end(&far);
        end.unwrap();
        assert_eq!(read, b"final data");
        let kind = write_until_error(&far);
        assert!(matches!(kind, BrokenPipe | ConnectionReset), "{kind:?}");
        let result = relay.result();
        assert!(matches!(result, Err(RelayError::Undelivered)), "{result:?}");
    }
}

#[test]
fn the_death_of_a_program_during_a_stream_is_an_error_for_its_sender() {
    for address in LOOPBACKS {
        let (mut near, far, relay) = Relay::start(address);
        near.write_all(b"final data").unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| write_until_error(&far));
            read_exactly(&near, LENGTH);
            drop(near);
            let kind = writer.join().unwrap();
            assert!(matches!(kind, BrokenPipe | ConnectionReset), "{kind:?}");
        });
        let result = relay.result();
        assert!(matches!(result, Err(RelayError::Undelivered)), "{result:?}");
        assert_eq!(read_to_end(&far).0, b"final data");
    }
}

#[test]
fn data_that_a_program_does_not_read_does_not_block_what_it_writes() {
    // More than all queues together hold.
    let data = pattern(64 * LENGTH);
    for address in LOOPBACKS {
        let (mut near, mut far, relay) = Relay::start(address);
        near.shutdown(Shutdown::Read).unwrap();
        far.write_all(&data).unwrap();
        near.write_all(&data[..LENGTH]).unwrap();
        assert!(read_exactly(&far, LENGTH) == data[..LENGTH]);
        far.shutdown(Shutdown::Write).unwrap();
        near.write_all(b"end").unwrap();
        drop(near);
        let (read, end) = read_to_end(&far);
        end.unwrap();
        assert_eq!(read, b"end");
        relay.result().unwrap();
    }
}
