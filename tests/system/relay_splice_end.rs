//! How a relay between a local socket and a TCP socket ends: what did not arrive is an error to
//! whom it concerns, and what did arrive is not lost by it.

use pve_tunnel::relay::RelayError;
use socket2::SockRef;
use std::io::ErrorKind::{self, BrokenPipe, ConnectionReset};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use testing::relay::{LOOPBACKS, Relay};
use testing::{pattern, read_out};

/// For which the queues of a sender are large enough.
const SOME: usize = 1 << 20;

/// Ends a connection as the death of its process does where it is armed.
fn reset(far: TcpStream) {
    let linger = Some(Duration::ZERO);
    SockRef::from(&far).set_linger(linger).unwrap();
}

fn read_exactly(mut stream: impl Read, length: usize) -> Vec<u8> {
    let mut data = vec![0; length];
    stream.read_exact(&mut data).unwrap();
    data
}

/// Writes until that is an error; which.
fn write_until_error(mut stream: impl Write) -> ErrorKind {
    let piece = vec![7; 64 << 10];
    loop {
        if let Err(error) = stream.write(&piece) {
            return error.kind();
        }
    }
}

/// Reads to an end that must be an error; what came before it.
fn read_until_reset(stream: impl Read) -> Vec<u8> {
    let (data, end) = read_out(stream);
    assert_eq!(end.unwrap_err().kind(), ConnectionReset);
    data
}

#[test]
fn a_reset_of_an_idle_connection_is_no_end() {
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
fn a_reset_amid_data_is_no_end_to_a_reader() {
    let data = pattern(SOME);
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
fn a_reset_amid_data_is_an_error_to_a_writer() {
    for address in LOOPBACKS {
        let (near, far, relay) = Relay::start(address);
        thread::scope(|scope| {
            let writer = scope.spawn(|| write_until_error(&near));
            read_exactly(&far, SOME);
            reset(far);
            let kind = writer.join().unwrap();
            assert!(matches!(kind, BrokenPipe | ConnectionReset), "{kind:?}");
        });
        // Whichever direction looks first.
        let result = relay.result();
        assert!(
            matches!(result, Err(RelayError::Truncated | RelayError::Send(_))),
            "{result:?}"
        );
    }
}

#[test]
fn a_reset_after_the_end_of_one_direction_is_noticed_although_nothing_is_sent() {
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
fn data_for_an_end_that_has_closed_is_an_error() {
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
fn a_program_that_closes_after_its_last_word_ends_well() {
    let data = pattern(SOME);
    for address in LOOPBACKS {
        for length in [0, 1, SOME] {
            let (mut near, far, relay) = Relay::start(address);
            let words = &data[..length];
            thread::scope(|scope| {
                scope.spawn(move || {
                    near.write_all(words).unwrap();
                    drop(near);
                });
                let (read, end) = read_out(&far);
                end.unwrap();
                assert!(read == words);
            });
            drop(far);
            relay.result().unwrap();
        }
    }
}

#[test]
fn a_program_that_closes_over_unread_data_is_no_end_and_its_words_arrive() {
    let data = pattern(SOME);
    for address in LOOPBACKS {
        let (mut near, mut far, relay) = Relay::start(address);
        // So little that most of what is sent waits on our side.
        let queue = SockRef::from(&far);
        queue.set_recv_buffer_size(64 << 10).unwrap();
        far.write_all(b"never read").unwrap();
        // Only peeked at: it stays unread.
        while SockRef::from(&near)
            .peek(&mut [std::mem::MaybeUninit::uninit()])
            .unwrap()
            == 0
        {}
        near.write_all(&data).unwrap();
        drop(near);
        while relay.counters.sent.load(Ordering::Relaxed) < SOME as u64 {
            thread::yield_now();
        }
        assert!(read_until_reset(&far) == data);
        let result = relay.result();
        assert!(matches!(result, Err(RelayError::Undelivered)), "{result:?}");
    }
}

#[test]
fn data_for_a_program_that_is_gone_is_an_error_to_its_sender() {
    for address in LOOPBACKS {
        let (mut near, far, relay) = Relay::start(address);
        near.write_all(b"last words").unwrap();
        drop(near);
        // The program had read everything, so this direction has ended well.
        let (read, end) = read_out(&far);
        end.unwrap();
        assert_eq!(read, b"last words");
        let kind = write_until_error(&far);
        assert!(matches!(kind, BrokenPipe | ConnectionReset), "{kind:?}");
        let result = relay.result();
        assert!(matches!(result, Err(RelayError::Undelivered)), "{result:?}");
    }
}

#[test]
fn a_program_that_dies_over_a_stream_is_an_error_to_its_sender() {
    for address in LOOPBACKS {
        let (mut near, far, relay) = Relay::start(address);
        near.write_all(b"last words").unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| write_until_error(&far));
            read_exactly(&near, SOME);
            drop(near);
            let kind = writer.join().unwrap();
            assert!(matches!(kind, BrokenPipe | ConnectionReset), "{kind:?}");
        });
        let result = relay.result();
        assert!(matches!(result, Err(RelayError::Undelivered)), "{result:?}");
        assert_eq!(read_out(&far).0, b"last words");
    }
}

#[test]
fn what_a_program_does_not_want_to_read_does_not_hold_up_what_it_writes() {
    // More than all queues together take.
    let data = pattern(64 * SOME);
    for address in LOOPBACKS {
        let (mut near, mut far, relay) = Relay::start(address);
        near.shutdown(Shutdown::Read).unwrap();
        far.write_all(&data).unwrap();
        near.write_all(&data[..SOME]).unwrap();
        assert!(read_exactly(&far, SOME) == data[..SOME]);
        far.shutdown(Shutdown::Write).unwrap();
        near.write_all(b"end").unwrap();
        drop(near);
        let (read, end) = read_out(&far);
        end.unwrap();
        assert_eq!(read, b"end");
        relay.result().unwrap();
    }
}
