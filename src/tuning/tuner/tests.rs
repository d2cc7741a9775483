//! The decision on constructed and on recorded samples.
#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::system::tcp_info::TcpInfo;
use crate::tuning::recorded;
use std::time::Instant;

const MIB: usize = 1 << 20;

/// A second on a path with this round trip: the send buffer was the limit for that part of it.
fn second(tuner: &mut Tuner, sample: &mut Sample, limited: f64, allowance: usize) -> Vec<Change> {
    sample.at += Duration::from_secs(1);
    sample.info.buffer_limited += Duration::from_secs_f64(limited);
    tuner.observe(*sample, allowance)
}

fn sample(round_trip: Duration) -> Sample {
    Sample {
        at: Instant::now(),
        info: TcpInfo {
            round_trip,
            min_round_trip: Some(round_trip),
            receive_scale: 10,
            ..TcpInfo::default()
        },
        buffers: BufferSizes {
            send: 4 * MIB,
            receive: 6 * MIB,
        },
        queued: 0,
        unread: 0,
    }
}

fn auto() -> Tuner {
    Tuner::new(Settings::default(), Some(6 * MIB))
}

fn send_buffer(changes: &[Change]) -> Option<usize> {
    match changes {
        [] => None,
        [Change::SendBuffer { bytes, .. }] => Some(*bytes),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_send_buffer_grows_while_it_is_the_limit_of_a_long_path() {
    const ALL: usize = 64 * MIB;
    for (what, milliseconds, seconds, allowance, expected) in [
        ("never the limit", 40, vec![0.0; 4], ALL, vec![]),
        ("the limit now and then", 40, vec![0.09; 4], ALL, vec![]),
        (
            "the limit all the time",
            40,
            vec![0.9; 4],
            ALL,
            vec![16, 64],
        ),
        ("the limit at first", 40, vec![0.9, 0.0, 0.0], ALL, vec![16]),
        ("a local network", 2, vec![0.9; 4], ALL, vec![]),
        ("many connections", 40, vec![0.9; 4], 10 * MIB, vec![10]),
        ("too many connections", 40, vec![0.9; 4], 4 * MIB, vec![]),
        (
            "hardly more is left",
            40,
            vec![0.9; 4],
            20 * MIB,
            vec![16, 20],
        ),
    ] {
        let mut tuner = auto();
        let mut now = sample(Duration::from_millis(milliseconds));
        assert_eq!(tuner.begin(false), []);
        assert_eq!(tuner.observe(now, allowance), []);
        let mut sizes = Vec::new();
        for limited in seconds {
            let changes = second(&mut tuner, &mut now, limited, allowance);
            if let Some(bytes) = send_buffer(&changes) {
                now.buffers.send = bytes;
                sizes.push(bytes / MIB);
                assert_eq!(tuner.requested(), bytes, "{what}");
            }
        }
        assert_eq!(sizes, expected, "{what}");
    }
}

#[test]
fn a_send_buffer_that_the_kernel_does_not_count_as_the_limit_grows_if_it_is_full() {
    for (what, queued, unsent, expected) in [
        ("full", 3 * MIB, 0, Some(16 * MIB)),
        ("with data that waits for the network", 3 * MIB, 1, None),
        ("with room for more", 2 * MIB, 0, None),
    ] {
        let mut tuner = auto();
        let mut now = sample(Duration::from_millis(40));
        now.queued = queued;
        now.info.unsent = unsent;
        tuner.observe(now, 64 * MIB);
        let changes = second(&mut tuner, &mut now, 0.0, 64 * MIB);
        assert_eq!(send_buffer(&changes), expected, "{what}");
    }
}

#[test]
fn the_reason_of_a_larger_buffer_has_its_figures() {
    let mut tuner = auto();
    let mut now = sample(Duration::from_millis(40));
    tuner.observe(now, 64 * MIB);
    let changes = second(&mut tuner, &mut now, 0.9, 64 * MIB);
    let reason = "its 4.0 MiB were full, and the path could carry more (round trip 40.0 ms)";
    let expected = Change::SendBuffer {
        bytes: 16 * MIB,
        reason: reason.to_owned(),
    };
    assert_eq!(changes, [expected]);
}

#[test]
fn the_receive_buffer_grows_if_a_round_trip_fills_the_kernels_largest_one() {
    for (what, change, expected) in [
        (
            "full",
            (&|_: &mut Sample| {}) as &dyn Fn(&mut Sample),
            Some(24),
        ),
        (
            "the kernel has not grown it",
            &|now| now.buffers.receive = 5 * MIB,
            None,
        ),
        (
            "the program does not read",
            &|now| now.unread = 3 * MIB,
            None,
        ),
        ("less data", &|now| now.info.bytes_received /= 2, None),
        (
            "a window of 1 MiB at most",
            &|now| now.info.receive_scale = 4,
            None,
        ),
        (
            "a window of 8 MiB at most",
            &|now| now.info.receive_scale = 7,
            Some(15),
        ),
    ] {
        let mut tuner = auto();
        let mut now = sample(Duration::from_millis(100));
        tuner.observe(now, 64 * MIB);
        now.at += Duration::from_secs(1);
        now.info.bytes_received = 40 << 20;
        change(&mut now);
        let sizes: Vec<usize> = tuner
            .observe(now, 64 * MIB)
            .into_iter()
            .map(|change| match change {
                Change::ReceiveBuffer { bytes, .. } => bytes / MIB,
                other => panic!("{what}: {other:?}"),
            })
            .collect();
        assert_eq!(sizes, Vec::from_iter(expected), "{what}");
    }
}

#[test]
fn what_is_configured_is_set_at_once_and_nothing_else() {
    let settings = |congestion, buffer| Settings { congestion, buffer };
    let congestion = |change: &Change| match change {
        Change::CongestionControl { name, .. } => (*name).to_owned(),
        Change::SendBuffer { bytes, .. } => format!("send {bytes}"),
        Change::ReceiveBuffer { bytes, .. } => format!("receive {bytes}"),
    };
    let system = Buffer::System;
    for (settings, lossy, expected, samples) in [
        (settings(Congestion::System, system), true, vec![], false),
        (settings(Congestion::Auto, system), false, vec![], true),
        (settings(Congestion::Auto, system), true, vec!["bbr"], false),
        (settings(Congestion::Bbr, system), false, vec!["bbr"], false),
        (
            settings(Congestion::Cubic, system),
            true,
            vec!["cubic"],
            false,
        ),
        (
            settings(Congestion::System, Buffer::Bytes(65_536)),
            true,
            vec!["send 65536", "receive 65536"],
            false,
        ),
        (
            settings(Congestion::System, Buffer::Auto),
            true,
            vec![],
            true,
        ),
    ] {
        let mut tuner = Tuner::new(settings, Some(6 * MIB));
        let changes: Vec<String> = tuner.begin(lossy).iter().map(congestion).collect();
        assert_eq!(changes, expected, "{settings:?}");
        assert_eq!(tuner.needs_samples(), samples, "{settings:?}");
        assert_eq!(tuner.requested(), 0, "{settings:?}");
    }
}

#[test]
fn nothing_is_requested_again_after_the_kernel_has_refused_it() {
    let mut tuner = auto();
    let mut now = sample(Duration::from_millis(40));
    tuner.observe(now, 64 * MIB);
    assert!(!second(&mut tuner, &mut now, 0.9, 64 * MIB).is_empty());
    tuner.leave_buffers();
    assert_eq!(tuner.requested(), 0);
    assert_eq!(second(&mut tuner, &mut now, 0.9, 64 * MIB), []);
    assert!(tuner.needs_samples());
    tuner.leave_congestion_control();
    assert!(!tuner.needs_samples());
}

/// The changes of a recorded connection, with their times in ms.
fn replay(recording: &str) -> Vec<(u128, String)> {
    let start = Instant::now();
    let mut tuner = auto();
    let mut changes = Vec::new();
    for sample in recorded::samples(recording, start) {
        for change in tuner.observe(sample, 64 * MIB) {
            let name = match change {
                Change::SendBuffer { bytes, .. } => format!("send {}", bytes / MIB),
                Change::ReceiveBuffer { bytes, .. } => format!("receive {}", bytes / MIB),
                Change::CongestionControl { name, .. } => name.to_owned(),
            };
            changes.push(((sample.at - start).as_millis(), name));
        }
    }
    changes
}

#[test]
fn each_kind_of_path_gets_what_it_needs() {
    for (what, recording, expected) in [
        (
            "a local network",
            include_str!("../recorded/local.txt"),
            &[][..],
        ),
        (
            "a local network with 1 % loss",
            include_str!("../recorded/lossy-local.txt"),
            &[],
        ),
        ("10 ms", include_str!("../recorded/10ms.txt"), &[]),
        (
            "40 ms, and less than 60 % of the rate after an overflow",
            include_str!("../recorded/40ms.txt"),
            &["send 16", "send 64", "bbr"],
        ),
        (
            "100 ms",
            include_str!("../recorded/100ms.txt"),
            &["send 16", "send 64"],
        ),
        (
            "20 ms and 1 % loss",
            include_str!("../recorded/lossy.txt"),
            &["bbr", "send 16", "send 64"],
        ),
        (
            "20 ms and 0.02 % loss",
            include_str!("../recorded/slightly-lossy.txt"),
            &["bbr", "send 16"],
        ),
        (
            "40 ms and a program that reads 5 MB/s",
            include_str!("../recorded/slow-reader.txt"),
            &["send 16"],
        ),
        (
            "20 ms and 50 Mbit/s",
            include_str!("../recorded/slow-link.txt"),
            &[],
        ),
        (
            "40 ms, 1 % loss, and a program that writes 1 MB/s",
            include_str!("../recorded/idle.txt"),
            &["bbr"],
        ),
    ] {
        let changes = replay(recording);
        let names: Vec<&str> = changes.iter().map(|(_, name)| &**name).collect();
        assert_eq!(names, expected, "{what}: {changes:?}");
        // Within the time in which a guest of 1 GiB is moved.
        assert!(
            changes.iter().all(|(at, _)| *at < 3000),
            "{what}: {changes:?}"
        );
    }
}
