//! What the contenders for decoding and encoding have in common.

use super::stream::{Reads, Stream};
use pve_tunnel::websocket::MAX_FRAME;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use tungstenite::protocol::WebSocketConfig;

pub const OURS: &str = "pve-tunnel";
pub const TUNGSTENITE: &str = "tungstenite";
pub const FASTWEBSOCKETS: &str = "fastwebsockets";

/// The length of the payload that is repeated, in bytes. It fits into the second-level cache, where
/// data that the kernel has just copied would be, too.
pub const PAYLOAD: usize = 1 << 20;

/// Processes one frame or a part of one, and returns the number of payload bytes.
pub type Step = Box<dyn FnMut() -> usize>;

/// The best configuration of tungstenite for this work: it writes each frame at once, and no frame
/// is longer than pveproxy's limit.
pub fn tungstenite_config(reads: Reads) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(reads.most)
        .write_buffer_size(0)
        .max_frame_size(Some(MAX_FRAME))
        .max_message_size(Some(MAX_FRAME))
}

/// A fastwebsockets connection that does only what is requested.
pub fn fastwebsocket(
    stream: Stream,
    role: fastwebsockets::Role,
) -> fastwebsockets::WebSocket<Stream> {
    let mut socket = fastwebsockets::WebSocket::after_handshake(stream, role);
    socket.set_writev(true);
    socket.set_auto_close(false);
    socket.set_auto_pong(false);
    socket.set_max_message_size(MAX_FRAME + 1);
    socket
}

/// The result of a future that is always ready.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("a stream in memory is always ready"),
    }
}
