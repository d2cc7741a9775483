//! Streams of frames, taken apart and made.
//!
//! Counted is what happens to a payload between two system calls, together with the copy that one
//! of them is. Decoding goes from a read, here out of an image of the wire and in odd pieces, to the
//! payload that could be written on. Encoding goes from the read of a payload, here out of a buffer,
//! to the write of its frame, which costs nothing here. Everybody may keep buffers from one frame to
//! the next, and may hand out and write in any pieces.

mod decode;
mod encode;
mod wire;

use crate::measure::{Contender, Contest, Effort, Goal, Row, Sample, Title, rate};
use pve_tunnel::websocket::{MAX_FRAME, Role};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tungstenite::protocol::WebSocketConfig;

const OURS: &str = "pve-tunnel";
const TUNGSTENITE: &str = "tungstenite";
const FASTWEBSOCKETS: &str = "fastwebsockets";

/// How long one turn takes.
const TURN: Duration = Duration::from_millis(20);

/// How much payload there is before it begins again: little enough for the second-level cache, where
/// what the kernel has just copied would be, too.
const PAYLOAD: usize = 1 << 20;

/// What reads deliver, and so how much an expert asks for at once.
///
/// A read costs nothing here, so that small ones look best: what they touch stays in the first-level
/// cache. From a socket each is a system call, and whoever has the choice asks for much.
#[derive(Clone, Copy)]
struct Reads {
    pieces: &'static [usize],
    most: usize,
}

impl Reads {
    /// From a socket: what has come meanwhile, which is much, mostly.
    const LARGE: Self = Self {
        pieces: &[1, 4095, 131_073, 70_000, 3],
        most: MAX_FRAME,
    };

    /// From TLS: never more than a record.
    const TLS: Self = Self {
        pieces: &[1, 4095, 16_384, 16_384, 16_384, 16_384, 3],
        most: 16 << 10,
    };
}

/// Does one step; how many bytes of payload that was.
type Step = Box<dyn FnMut() -> usize>;

pub fn run(effort: &Effort) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (size, length) in [
        ("4 KiB", 4 << 10),
        ("16 KiB", 16 << 10),
        ("64 KiB", 64 << 10),
        ("128 KiB", 128 << 10),
    ] {
        let decoders = |role, reads| decode::contenders(role, length, reads);
        for (work, contenders) in [
            ("decode masked", decoders(Role::Server, Reads::LARGE)),
            ("decode unmasked", decoders(Role::Client, Reads::LARGE)),
            ("decode masked TLS", decoders(Role::Server, Reads::TLS)),
            ("decode unmasked TLS", decoders(Role::Client, Reads::TLS)),
            ("encode", encode::contenders(length)),
        ] {
            let turns =
                contenders.map(|(name, mut step)| Contender::new(name, move || turn(&mut step)));
            let contest = Contest::hold(effort.runs(), turns.into());
            let title = Title {
                case: "frame",
                name: &format!("{work}, {size}"),
                unit: "MB/s",
            };
            for (peer, goal) in [(TUNGSTENITE, 2.0), (FASTWEBSOCKETS, 1.2)] {
                let goal = Some(Goal::AtLeast(goal));
                rows.push(contest.row(title, peer, goal, |sample| sample.value));
            }
        }
    }
    Ok(rows)
}

fn turn(step: &mut Step) -> Sample {
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < TURN {
        let mut batch = 0;
        while batch < PAYLOAD {
            batch += step();
        }
        bytes += batch as u64;
    }
    Sample::of(rate(bytes, started.elapsed()))
}

/// How tungstenite is at its best here: it writes each frame as it comes, and knows that none is
/// longer than pveproxy's.
fn tungstenite_config(reads: Reads) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(reads.most)
        .write_buffer_size(0)
        .max_frame_size(Some(MAX_FRAME))
        .max_message_size(Some(MAX_FRAME))
}

/// fastwebsockets, with nothing to do but what is asked for.
fn fastwebsocket(
    wire: wire::Wire,
    role: fastwebsockets::Role,
) -> fastwebsockets::WebSocket<wire::Wire> {
    let mut socket = fastwebsockets::WebSocket::after_handshake(wire, role);
    socket.set_writev(true);
    socket.set_auto_close(false);
    socket.set_auto_pong(false);
    socket.set_max_message_size(MAX_FRAME + 1);
    socket
}

/// What a future gives that never has to wait.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("memory never makes anybody wait"),
    }
}
