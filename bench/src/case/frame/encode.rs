//! Making frames as a client sends them: each masked with a fresh random key.

use super::wire::Wire;
use super::{
    FASTWEBSOCKETS, OURS, PAYLOAD, Reads, Step, TUNGSTENITE, fastwebsocket, ready,
    tungstenite_config,
};
use bytes::BytesMut;
use fastwebsockets::Frame;
use pve_tunnel::websocket::{Decoder, Encoder, Event, MAX_FRAME, MAX_HEADER, Masking, Role};
use std::io::Write;
use testing::pattern;
use tungstenite::{Message, WebSocket};

/// Makes frames of what is read, and writes them.
type Encoding = fn(Local, Wire) -> Step;

/// Encoders of frames of this length.
pub fn contenders(length: usize) -> [(&'static str, Step); 3] {
    let contenders: [(&str, Encoding); 3] = [
        (OURS, ours),
        (TUNGSTENITE, tungstenite),
        (FASTWEBSOCKETS, fastwebsockets),
    ];
    contenders.map(|(name, encoder)| {
        loses_nothing(name, length, encoder);
        (name, encoder(Local::new(length), Wire::sink()))
    })
}

/// As the relay does it: what it reads, it reads behind room for a header.
fn ours(mut local: Local, mut wire: Wire) -> Step {
    let mut encoder = Encoder::new(Role::Client, Masking::Random);
    let mut buffer = vec![0; MAX_HEADER + local.length];
    Box::new(move || {
        local.read(&mut buffer[MAX_HEADER..]);
        let start = encoder.encode_in_place(&mut buffer).unwrap();
        wire.write_all(&buffer[start..]).unwrap();
        local.length
    })
}

/// It wants its payload shared, and gives it back with the message: then the same memory can take
/// the next one. It has a buffer of its own for the frame.
fn tungstenite(mut local: Local, wire: Wire) -> Step {
    let role = tungstenite::protocol::Role::Client;
    let mut socket = WebSocket::from_raw_socket(wire, role, Some(tungstenite_config(Reads::LARGE)));
    let mut buffer = BytesMut::new();
    Box::new(move || {
        buffer.reserve(local.length);
        buffer.extend_from_slice(local.next());
        let message = Message::Binary(buffer.split().freeze());
        socket.write(message).unwrap();
        local.length
    })
}

/// It masks where it was read, and sends the header beside it.
fn fastwebsockets(mut local: Local, wire: Wire) -> Step {
    let mut socket = fastwebsocket(wire, fastwebsockets::Role::Client);
    let mut buffer = vec![0; local.length];
    Box::new(move || {
        local.read(&mut buffer);
        let frame = Frame::binary(buffer.as_mut_slice().into());
        ready(socket.write_frame(frame)).unwrap();
        local.length
    })
}

/// The local program, which has written enough for any read.
struct Local {
    written: Vec<u8>,
    length: usize,
    at: usize,
}

impl Local {
    /// It is read `length` bytes at a time.
    fn new(length: usize) -> Self {
        Self {
            written: pattern(PAYLOAD),
            length,
            at: 0,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) {
        buffer.copy_from_slice(self.next());
    }

    fn next(&mut self) -> &[u8] {
        let start = self.at;
        self.at = (start + self.length) % self.written.len();
        &self.written[start..][..self.length]
    }
}

/// Whoever loses or damages something is in no contest.
fn loses_nothing(name: &str, length: usize, encoder: Encoding) {
    let (wire, written) = Wire::kept();
    let mut encode = encoder(Local::new(length), wire);
    for _ in 0..PAYLOAD / length {
        encode();
    }
    let mut decoder = Decoder::new(Role::Server, MAX_FRAME);
    decoder.feed(&written.borrow());
    let mut seen = Vec::new();
    while let Some(event) = decoder.next_event().unwrap() {
        let Event::Data { payload, .. } = event else {
            panic!("{name} sends {event:?}");
        };
        assert_eq!(payload.len(), length, "{name} sends frames of its own size");
        seen.extend_from_slice(payload);
    }
    assert!(seen == pattern(PAYLOAD), "{name} damages what it encodes");
}
