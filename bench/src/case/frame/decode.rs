//! Decoding of a stream of frames. A server receives masked frames, a client unmasked ones.

use super::contender::{
    FASTWEBSOCKETS, OURS, PAYLOAD, Step, TUNGSTENITE, fastwebsocket, ready, tungstenite_config,
};
use super::stream::{Reads, Stream};
use pve_tunnel::websocket::{
    Decoder, Event, FrameHeader, MAX_FRAME, MAX_HEADER, OpCode, Role, mask,
};
use std::hint::black_box;
use std::io::Read;
use testing::pattern;
use tungstenite::{Message, WebSocket};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// How much pve-tunnel's decoder reads at a time, in bytes. This much is still in the first-level
/// cache when it is unmasked. The connector requests more, but TLS delivers records of half this
/// size.
const READ: usize = 32 << 10;

/// Decodes some payload, and calls the function with it.
type Decode = Box<dyn FnMut(&mut dyn FnMut(&[u8]))>;

/// The decoders, for frames with payloads of this length.
pub fn contenders(role: Role, length: usize, reads: Reads) -> [(&'static str, Step); 3] {
    let stream = Stream::new(image(role, length), reads);
    [
        (OURS, ours(role, stream.clone())),
        (TUNGSTENITE, tungstenite(role, stream.clone(), reads)),
        (FASTWEBSOCKETS, fastwebsockets(role, stream)),
    ]
    .map(|(name, mut decode)| {
        check(name, &mut decode);
        let step = move || {
            let mut count = 0;
            decode(&mut |payload| count += black_box(payload).len());
            count
        };
        (name, Box::new(step) as Step)
    })
}

/// Decodes as the connector does: in the buffer into which it reads.
fn ours(role: Role, mut stream: Stream) -> Decode {
    let mut decoder = Decoder::new(role, MAX_FRAME);
    Box::new(move |receive| {
        loop {
            match decoder.next_event().unwrap() {
                Some(Event::Data { payload, .. }) => return receive(payload),
                Some(other) => panic!("{other:?}"),
                None => {
                    let count = stream.read(decoder.space(READ)).unwrap();
                    decoder.filled(count);
                }
            }
        }
    })
}

fn tungstenite(role: Role, stream: Stream, reads: Reads) -> Decode {
    let role = match role {
        Role::Server => tungstenite::protocol::Role::Server,
        Role::Client => tungstenite::protocol::Role::Client,
    };
    let mut socket = WebSocket::from_raw_socket(stream, role, Some(tungstenite_config(reads)));
    Box::new(move |receive| match socket.read().unwrap() {
        Message::Binary(payload) => receive(&payload),
        other => panic!("{other:?}"),
    })
}

fn fastwebsockets(role: Role, stream: Stream) -> Decode {
    let role = match role {
        Role::Server => fastwebsockets::Role::Server,
        Role::Client => fastwebsockets::Role::Client,
    };
    let mut socket = fastwebsocket(stream, role);
    Box::new(move |receive| receive(&ready(socket.read_frame()).unwrap().payload))
}

/// Frames as the peer of this role sends them.
fn image(role: Role, length: usize) -> Vec<u8> {
    let mut image = Vec::new();
    for payload in pattern(PAYLOAD).chunks(length) {
        let header = FrameHeader {
            fin: true,
            opcode: OpCode::Binary,
            mask: (role == Role::Server).then_some(KEY),
            length: length as u64,
        };
        let mut bytes = [0; MAX_HEADER];
        let end = header.write(&mut bytes);
        image.extend_from_slice(&bytes[..end]);
        let start = image.len();
        image.extend_from_slice(payload);
        if let Some(key) = header.mask {
            mask(&mut image[start..], key, 0);
        }
    }
    image
}

/// Checks that a decoder neither loses nor damages data.
fn check(name: &str, decode: &mut Decode) {
    let mut received = Vec::new();
    while received.len() < 2 * PAYLOAD {
        decode(&mut |payload| received.extend_from_slice(payload));
    }
    let sent = pattern(PAYLOAD);
    for received in received.chunks(PAYLOAD) {
        assert!(
            *received == sent[..received.len()],
            "{name} damages the payload"
        );
    }
}
