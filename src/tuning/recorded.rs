//! Samples that were recorded on real sockets, on an emulated link of 1 Gbit/s with a queue of 20 ms.
//!
//! A line is one sample. Its columns, separated by spaces: time in ms; `data_segments_sent`;
//! `retransmitted`; `round_trip` and `min_round_trip` in µs; `bytes_acked`; `bytes_received`; `unsent`;
//! `busy`, `window_limited` and `buffer_limited` in µs; `send_window`; `receive_scale`; `app_limited`
//! (0 or 1); the send buffer and the receive buffer; unread bytes.

#![allow(clippy::unwrap_used)]

use super::sample::Sample;
use crate::system::tcp_info::TcpInfo;
use crate::system::tcp_options::BufferSizes;
use std::time::{Duration, Instant};

/// The columns of a line.
const COLUMNS: usize = 17;

/// The samples of a recording, the first one at `start`.
pub(super) fn samples(recording: &str, start: Instant) -> Vec<Sample> {
    let lines: Vec<[u64; COLUMNS]> = recording.lines().map(columns).collect();
    let first = lines[0][0];
    let sample = |line: &[u64; COLUMNS]| sample(line, start + milliseconds(line[0] - first));
    lines.iter().map(sample).collect()
}

fn columns(line: &str) -> [u64; COLUMNS] {
    let numbers: Vec<u64> = line
        .split_ascii_whitespace()
        .map(|number| number.parse().unwrap())
        .collect();
    numbers.try_into().unwrap()
}

fn sample(line: &[u64; COLUMNS], at: Instant) -> Sample {
    let [
        _,
        segments,
        retransmitted,
        round_trip,
        min_round_trip,
        bytes_acked,
        bytes_received,
        unsent,
        busy,
        window_limited,
        buffer_limited,
        send_window,
        receive_scale,
        app_limited,
        send,
        receive,
        unread,
    ] = *line;
    let word = |number: u64| u32::try_from(number).unwrap();
    Sample {
        at,
        info: TcpInfo {
            receive_scale: u8::try_from(receive_scale).unwrap(),
            app_limited: app_limited == 1,
            round_trip: Duration::from_micros(round_trip),
            min_round_trip: Some(Duration::from_micros(min_round_trip)),
            retransmitted: word(retransmitted),
            bytes_acked,
            bytes_received,
            unsent: word(unsent),
            data_segments_sent: word(segments),
            busy: Duration::from_micros(busy),
            window_limited: Duration::from_micros(window_limited),
            buffer_limited: Duration::from_micros(buffer_limited),
            send_window: word(send_window),
            ..TcpInfo::default()
        },
        buffers: BufferSizes {
            send: usize::try_from(send).unwrap(),
            receive: usize::try_from(receive).unwrap(),
        },
        unread: usize::try_from(unread).unwrap(),
    }
}

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}
