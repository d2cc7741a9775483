//! The relay with splice(2) between a local socket and a TCP socket: all data arrives without
//! delay, and the relay neither buffers nor polls more than it has to.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use testing::relay::{LOOPBACKS, Relay};
use testing::{pattern, random, read_to_end, write_in_pieces};

const BULK: usize = 64 << 20;

/// The most that the pipe and the UNIX socket's queue may hold besides the queues of TCP.
const QUEUES: usize = 2 << 20;

fn read_all(stream: impl Read) -> Vec<u8> {
    let (data, end) = read_to_end(stream);
    end.unwrap();
    data
}

#[test]
fn bulk_data_passes_in_both_directions_at_once() {
    for address in LOOPBACKS {
        let (near, far, relay) = Relay::start(address);
        let up = pattern(BULK);
        let down: Vec<u8> = up.iter().map(|byte| !byte).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                write_in_pieces(&near, &up).unwrap();
                near.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(|| {
                write_in_pieces(&far, &down).unwrap();
                far.shutdown(Shutdown::Write).unwrap();
            });
            let at_far = scope.spawn(|| read_all(&far));
            assert!(read_all(&near) == down);
            assert!(at_far.join().unwrap() == up);
        });
        let counters = relay.counters.clone();
        relay.result().unwrap();
        assert_eq!(counters.sent.load(Ordering::Relaxed), BULK as u64);
        assert_eq!(counters.received.load(Ordering::Relaxed), BULK as u64);
    }
}

#[test]
fn either_direction_may_end_first_and_the_other_continues() {
    let data = pattern(1 << 20);
    for address in LOOPBACKS {
        for length in [0, 1, 2, 16_384, 16_385, 1 << 20] {
            let data = &data[..length];
            let (near, far, relay) = Relay::start(address);
            thread::scope(|scope| {
                scope.spawn(|| {
                    (&near).write_all(data).unwrap();
                    near.shutdown(Shutdown::Write).unwrap();
                });
                assert!(read_all(&far) == data, "up {length}");
                scope.spawn(|| {
                    (&far).write_all(data).unwrap();
                    far.shutdown(Shutdown::Write).unwrap();
                });
                assert!(read_all(&near) == data, "then down {length}");
            });
            relay.result().unwrap();

            let (near, far, relay) = Relay::start(address);
            thread::scope(|scope| {
                scope.spawn(|| {
                    (&far).write_all(data).unwrap();
                    far.shutdown(Shutdown::Write).unwrap();
                });
                assert!(read_all(&near) == data, "down {length}");
                scope.spawn(|| {
                    (&near).write_all(data).unwrap();
                    near.shutdown(Shutdown::Write).unwrap();
                });
                assert!(read_all(&far) == data, "then up {length}");
            });
            relay.result().unwrap();
        }
    }
}

#[test]
fn a_sender_that_keeps_its_socket_open_can_end_its_stream() {
    // PVE::StorageTunnel does this, and then requests over the control connection whether all data
    // has arrived.
    let data = pattern(3 << 20);
    for address in LOOPBACKS {
        let (near, far, relay) = Relay::start(address);
        near.shutdown(Shutdown::Read).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                (&near).write_all(&data).unwrap();
                near.shutdown(Shutdown::Write).unwrap();
            });
            assert!(read_all(&far) == data);
        });
        far.shutdown(Shutdown::Both).unwrap();
        relay.result().unwrap();
    }
}

#[test]
fn every_single_byte_is_relayed_without_delay() {
    for address in LOOPBACKS {
        let (mut near, mut far, relay) = Relay::start(address);
        for turn in 0..10_000_u32 {
            let (request, mut received) = ([turn as u8], [0]);
            near.write_all(&request).unwrap();
            far.read_exact(&mut received).unwrap();
            far.write_all(&[!received[0]]).unwrap();
            near.read_exact(&mut received).unwrap();
            assert_eq!(received[0], !request[0], "turn {turn}");
        }
        drop((near, far));
        relay.result().unwrap();
    }
}

/// One direction of a connection with random reads and writes.
struct Direction<W, R> {
    writer: W,
    reader: R,
    written: usize,
    read: usize,
}

impl<W: Write, R: Read> Direction<W, R> {
    fn write(&mut self, data: &[u8], length: usize) {
        let end = data.len().min(self.written + length);
        match self.writer.write(&data[self.written..end]) {
            Ok(count) => self.written += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }

    fn read(&mut self, data: &[u8], length: usize) {
        let mut buffer = vec![0; length];
        match self.reader.read(&mut buffer) {
            Ok(count) => {
                assert!(buffer[..count] == data[self.read..self.read + count]);
                self.read += count;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

#[test]
fn any_interleaving_of_writes_and_reads_keeps_every_byte() {
    let data = pattern(500_000);
    for seed in 1..=60 {
        let mut random = random(seed);
        let (near, far, relay) = Relay::start(LOOPBACKS[seed as usize % 2]);
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let mut up = Direction {
            writer: &near,
            reader: &far,
            written: 0,
            read: 0,
        };
        let mut down = Direction {
            writer: &far,
            reader: &near,
            written: 0,
            read: 0,
        };
        while up.written < data.len() || down.written < data.len() {
            let length = match random(4) {
                0 => 1 + random(3),
                1 => 16_383 + random(3),
                2 => 1 + random(40_000),
                _ => 1 + random(300),
            } as usize;
            match random(4) {
                0 => up.write(&data, length),
                1 => up.read(&data, length),
                2 => down.write(&data, length),
                _ => down.read(&data, length),
            }
        }
        near.set_nonblocking(false).unwrap();
        far.set_nonblocking(false).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        let (read_up, read_down) = (up.read, down.read);
        assert!(read_all(&far) == data[read_up..], "seed {seed}");
        assert!(read_all(&near) == data[read_down..], "seed {seed}");
        relay.result().unwrap();
    }
}

/// The most that the queues of a TCP connection may hold, sending and receiving.
fn tcp_queues() -> usize {
    let most = |name: &str| -> usize {
        let limits = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
        limits.split_whitespace().last().unwrap().parse().unwrap()
    };
    most("tcp_wmem") + most("tcp_rmem")
}

/// Writes until the socket has accepted nothing for 200 ms. Returns the number of bytes written.
fn write_until_stalled(mut stream: impl Write + AsFd) -> usize {
    let piece = vec![7; 64 << 10];
    let mut written = 0;
    loop {
        match stream.write(&piece) {
            Ok(count) => written += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, PollTimeout::from(200_u8)).unwrap() == 0 {
                    return written;
                }
            }
        }
    }
}

#[test]
fn a_stalled_reader_stalls_the_writer_and_the_relay_is_not_polled() {
    for address in LOOPBACKS {
        let (near, far, relay) = Relay::start(address);
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let up = write_until_stalled(&near);
        let down = write_until_stalled(&far);
        let most = tcp_queues() + QUEUES;
        assert!(up < most && down < most, "{up}, {down} bytes accepted");
        let before = relay.polls.load(Ordering::Relaxed);
        // This does not wait for an event: no event may happen in this time.
        thread::sleep(Duration::from_millis(300));
        let polls = relay.polls.load(Ordering::Relaxed) - before;
        assert!(polls < 10, "polled {polls} times without data");
        near.set_nonblocking(false).unwrap();
        far.set_nonblocking(false).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&far).len(), up);
        assert_eq!(read_all(&near).len(), down);
        relay.result().unwrap();
    }
}

#[test]
fn data_that_a_slow_reader_has_not_read_at_a_clean_end_still_arrives() {
    let data = pattern(BULK);
    // Small enough for the relay to send, and more than the reader's queue holds.
    let rest = 1 << 20;
    for address in LOOPBACKS {
        let (mut near, mut far, relay) = Relay::start(address);
        let queue = socket2::SockRef::from(&far);
        queue.set_recv_buffer_size(64 << 10).unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        let mut start = vec![0; BULK - rest];
        thread::scope(|scope| {
            scope.spawn(|| {
                near.write_all(&data).unwrap();
                drop(near);
            });
            far.read_exact(&mut start).unwrap();
        });
        while relay.counters.sent.load(Ordering::Relaxed) < BULK as u64 {
            thread::yield_now();
        }
        assert!(start == data[..start.len()]);
        assert!(read_all(&far) == data[start.len()..]);
        relay.result().unwrap();
    }
}
