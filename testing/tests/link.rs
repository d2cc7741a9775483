//! The emulated link: it loses, delays and drops what its conditions require, and changes nothing
//! else.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};
use testing::cable::{SOURCE_ADDRESSES, TARGET_ADDRESSES};
use testing::link::{BOTH, Counts, Direction, Link, on_link};
use testing::pattern;

/// Much longer than any step takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A UDP socket at each end, connected to the other.
fn datagram_sockets(link: &Link) -> (UdpSocket, UdpSocket) {
    let source = UdpSocket::bind((SOURCE_ADDRESSES[0], 0)).unwrap();
    let target = link
        .target()
        .execute(|| UdpSocket::bind((TARGET_ADDRESSES[0], 0)).unwrap());
    source.connect(target.local_addr().unwrap()).unwrap();
    target.connect(source.local_addr().unwrap()).unwrap();
    for socket in [&source, &target] {
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    }
    (source, target)
}

/// Sends `data` from the first to the second stream, and requires that it arrives unchanged.
fn transfer(mut from: TcpStream, mut to: TcpStream, data: &[u8]) {
    thread::scope(|scope| {
        scope.spawn(move || {
            from.write_all(data).unwrap();
        });
        to.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut received = vec![0; data.len()];
        to.read_exact(&mut received).unwrap();
        assert!(received == data, "the data differs");
    });
}

/// How many IP packets this thread's namespace has received whose headers were wrong.
fn wrong_headers() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "InHdrErrors").unwrap();
    value.parse().unwrap()
}

/// The kernel gives the relay large packets. Only single segments of them may be lost.
#[test]
fn the_share_of_packets_that_is_lost_is_the_requested_one() {
    on_link(|link| {
        for (direction, share) in [(Direction::ToTarget, 0.01), (Direction::ToSource, 0.03)] {
            link.change(direction, |conditions| conditions.loss = share);
            let before = link.counts(direction);
            let (source, target) = link.connect();
            let data = pattern(32 << 20);
            match direction {
                Direction::ToTarget => transfer(source, target, &data),
                Direction::ToSource => transfer(target, source, &data),
            }
            let after = link.counts(direction);
            let lost = (after.lost - before.lost) as f64;
            let all = (after.passed - before.passed) as f64 + lost;
            assert!(
                all > 22_000.0,
                "{all} packets for 32 MiB in segments of 1448 bytes"
            );
            let measured = lost / all;
            assert!(
                (0.7 * share..1.4 * share).contains(&measured),
                "{direction:?}: {measured} instead of {share}"
            );
            link.change(direction, |conditions| conditions.loss = 0.0);
        }
        assert_eq!(wrong_headers(), 0, "at the source");
        assert_eq!(link.target().execute(wrong_headers), 0, "at the target");
    });
}

#[test]
fn a_packet_takes_half_of_the_round_trip_time_in_each_direction() {
    on_link(|link| {
        let (source, target) = datagram_sockets(link);
        for milliseconds in [0, 40, 200] {
            let round_trip = Duration::from_millis(milliseconds);
            link.set_round_trip(round_trip);
            let times = (0..5).map(|_| {
                let started = Instant::now();
                source.send(b"?").unwrap();
                target.recv(&mut [0; 8]).unwrap();
                assert!(started.elapsed() >= round_trip / 2);
                target.send(b"!").unwrap();
                source.recv(&mut [0; 8]).unwrap();
                started.elapsed()
            });
            let shortest = times.min().unwrap();
            assert!(shortest >= round_trip, "{shortest:?}");
            assert!(
                shortest < round_trip + Duration::from_millis(20),
                "{shortest:?}"
            );
        }
    });
}

#[test]
fn data_passes_no_faster_than_the_rate_and_arrives_although_the_queue_overflows() {
    const RATE: u64 = 10_000_000;
    on_link(|link| {
        link.set_rate(RATE);
        let data = pattern(5_000_000);
        let started = Instant::now();
        let (source, target) = link.connect();
        transfer(source, target, &data);
        let least = Duration::from_secs_f64(data.len() as f64 / RATE as f64);
        assert!(started.elapsed() >= least, "{:?}", started.elapsed());
        assert!(
            link.counts(Direction::ToTarget).lost > 0,
            "the queue did not overflow"
        );
    });
}

#[test]
fn a_large_packet_vanishes_in_the_direction_that_drops_it() {
    on_link(|link| {
        link.set_mtu(9000);
        let (source, target) = datagram_sockets(link);
        for direction in BOTH {
            let (from, to) = match direction {
                Direction::ToTarget => (&source, &target),
                Direction::ToSource => (&target, &source),
            };
            let receive = |socket: &UdpSocket| socket.recv(&mut [0; 9000]).unwrap();
            // 28 bytes are the headers of IP and UDP.
            from.send(&[0; 8972]).unwrap();
            assert_eq!(receive(to), 8972);
            link.change(direction, |conditions| conditions.largest = 1500);
            for size in [8972, 1473, 1472] {
                from.send(&vec![0; size]).unwrap();
            }
            assert_eq!(receive(to), 1472, "{direction:?}: the first that arrives");
            to.send(&[0; 8972]).unwrap();
            assert_eq!(receive(from), 8972, "the other direction");
            link.change(direction, |conditions| conditions.largest = usize::MAX);
        }
    });
}

#[test]
fn segments_fit_into_the_mtu() {
    on_link(|link| {
        for mtu in [1420, 9000] {
            link.set_mtu(mtu);
            // If the kernel sent larger segments, none would pass.
            link.change(Direction::ToTarget, |conditions| conditions.largest = mtu);
            let before = link.counts(Direction::ToTarget);
            let (source, target) = link.connect();
            let data = pattern(1 << 20);
            transfer(source, target, &data);
            let after = link.counts(Direction::ToTarget);
            let Counts { passed, lost } = after;
            assert_eq!(lost, before.lost);
            // 52 bytes are the headers of IP and TCP with time stamps.
            let least = data.len().div_ceil(mtu - 52) as u64;
            assert!(passed - before.passed >= least, "{after:?}");
        }
    });
}
