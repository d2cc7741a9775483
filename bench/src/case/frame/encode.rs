//! Encoding of frames as a client sends them. Each is masked with a new random key.

use super::contender::{
    FASTWEBSOCKETS, OURS, PAYLOAD, Step, TUNGSTENITE, fastwebsocket, ready, tungstenite_config,
};
use super::stream::{Reads, Stream};
use bytes::BytesMut;
use fastwebsockets::Frame;
use pve_tunnel::websocket::{Decoder, Encoder, Event, MAX_FRAME, MAX_HEADER, Masking, Role};
use std::io::Write;
use testing::pattern;
use tungstenite::{Message, WebSocket};

/// Creates an encoder that reads payloads from the source and writes frames to the stream.
type Encoding = fn(Source, Stream) -> Step;

/// The encoders, for frames with payloads of this length.
pub fn contenders(length: usize) -> [(&'static str, Step); 3] {
    let contenders: [(&str, Encoding); 3] = [
        (OURS, ours),
        (TUNGSTENITE, tungstenite),
        (FASTWEBSOCKETS, fastwebsockets),
    ];
    contenders.map(|(name, encoder)| {
        check(name, length, encoder);
        (name, encoder(Source::new(length), Stream::sink()))
    })
}

/// Encodes as the relay does: it reads the payload into a buffer with space for the header before
/// it.
fn ours(mut source: Source, mut stream: Stream) -> Step {
    let mut encoder = Encoder::new(Role::Client, Masking::Random);
    let mut buffer = vec![0; MAX_HEADER + source.length];
    Box::new(move || {
        source.read(&mut buffer[MAX_HEADER..]);
        let start = encoder.encode_in_place(&mut buffer).unwrap();
        stream.write_all(&buffer[start..]).unwrap();
        source.length
    })
}

/// tungstenite takes the payload as shared memory and drops it after the message, so the next
/// payload uses the same memory. It assembles the frame in a buffer of its own.
fn tungstenite(mut source: Source, stream: Stream) -> Step {
    let role = tungstenite::protocol::Role::Client;
    let mut socket =
        WebSocket::from_raw_socket(stream, role, Some(tungstenite_config(Reads::LARGE)));
    let mut buffer = BytesMut::new();
    Box::new(move || {
        buffer.reserve(source.length);
        buffer.extend_from_slice(source.next());
        let message = Message::Binary(buffer.split().freeze());
        socket.write(message).unwrap();
        source.length
    })
}

/// fastwebsockets masks in the caller's buffer, and writes header and payload with one vectored
/// write.
fn fastwebsockets(mut source: Source, stream: Stream) -> Step {
    let mut socket = fastwebsocket(stream, fastwebsockets::Role::Client);
    let mut buffer = vec![0; source.length];
    Box::new(move || {
        source.read(&mut buffer);
        let frame = Frame::binary(buffer.as_mut_slice().into());
        ready(socket.write_frame(frame)).unwrap();
        source.length
    })
}

/// Replaces the local program. A read never waits and always fills the buffer.
struct Source {
    data: Vec<u8>,
    length: usize,
    at: usize,
}

impl Source {
    /// A source that is read `length` bytes at a time.
    fn new(length: usize) -> Self {
        Self {
            data: pattern(PAYLOAD),
            length,
            at: 0,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) {
        buffer.copy_from_slice(self.next());
    }

    fn next(&mut self) -> &[u8] {
        let start = self.at;
        self.at = (start + self.length) % self.data.len();
        &self.data[start..][..self.length]
    }
}

/// Checks that an encoder neither loses nor damages data.
fn check(name: &str, length: usize, encoder: Encoding) {
    let (stream, written) = Stream::kept();
    let mut encode = encoder(Source::new(length), stream);
    for _ in 0..PAYLOAD / length {
        encode();
    }
    let mut decoder = Decoder::new(Role::Server, MAX_FRAME);
    decoder.feed(&written.borrow());
    let mut received = Vec::new();
    while let Some(event) = decoder.next_event().unwrap() {
        let Event::Data { payload, .. } = event else {
            panic!("{name} sends {event:?}");
        };
        assert_eq!(payload.len(), length, "{name} sends frames of its own size");
        received.extend_from_slice(payload);
    }
    assert!(received == pattern(PAYLOAD), "{name} damages the payload");
}
