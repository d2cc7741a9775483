//! Taking a stream of frames apart. A server gets them masked, a client does not.

use super::wire::Wire;
use super::{
    FASTWEBSOCKETS, OURS, PAYLOAD, Reads, Step, TUNGSTENITE, fastwebsocket, ready,
    tungstenite_config,
};
use pve_tunnel::websocket::{
    Decoder, Event, FrameHeader, MAX_FRAME, MAX_HEADER, OpCode, Role, mask,
};
use std::hint::black_box;
use std::io::Read;
use testing::pattern;
use tungstenite::{Message, WebSocket};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// How much ours reads at once, in bytes: what is still in the first cache when it is unmasked. The
/// connector asks for more, and gets it from TLS in records of half that.
const READ: usize = 32 << 10;

/// Shows some payload, as it comes out.
type Decode = Box<dyn FnMut(&mut dyn FnMut(&[u8]))>;

/// Decoders of frames of this length.
pub fn contenders(role: Role, length: usize, reads: Reads) -> [(&'static str, Step); 3] {
    let wire = Wire::new(image(role, length), reads);
    [
        (OURS, ours(role, wire.clone())),
        (TUNGSTENITE, tungstenite(role, wire.clone(), reads)),
        (FASTWEBSOCKETS, fastwebsockets(role, wire)),
    ]
    .map(|(name, mut decode)| {
        loses_nothing(name, &mut decode);
        let step = move || {
            let mut count = 0;
            decode(&mut |payload| count += black_box(payload).len());
            count
        };
        (name, Box::new(step) as Step)
    })
}

/// As the connector does it: what it reads is decoded where it was read.
fn ours(role: Role, mut wire: Wire) -> Decode {
    let mut decoder = Decoder::new(role, MAX_FRAME);
    Box::new(move |see| {
        loop {
            match decoder.next_event().unwrap() {
                Some(Event::Data { payload, .. }) => return see(payload),
                Some(other) => panic!("{other:?}"),
                None => {
                    let count = wire.read(decoder.space(READ)).unwrap();
                    decoder.filled(count);
                }
            }
        }
    })
}

fn tungstenite(role: Role, wire: Wire, reads: Reads) -> Decode {
    let role = match role {
        Role::Server => tungstenite::protocol::Role::Server,
        Role::Client => tungstenite::protocol::Role::Client,
    };
    let mut socket = WebSocket::from_raw_socket(wire, role, Some(tungstenite_config(reads)));
    Box::new(move |see| match socket.read().unwrap() {
        Message::Binary(payload) => see(&payload),
        other => panic!("{other:?}"),
    })
}

fn fastwebsockets(role: Role, wire: Wire) -> Decode {
    let role = match role {
        Role::Server => fastwebsockets::Role::Server,
        Role::Client => fastwebsockets::Role::Client,
    };
    let mut socket = fastwebsocket(wire, role);
    Box::new(move |see| see(&ready(socket.read_frame()).unwrap().payload))
}

/// Frames as the other end sends them.
fn image(role: Role, length: usize) -> Vec<u8> {
    let mut image = Vec::new();
    for payload in pattern(PAYLOAD).chunks(length) {
        let header = FrameHeader {
            fin: true,
            opcode: OpCode::Binary,
            mask: (role == Role::Server).then_some(KEY),
            length: length as u64,
        };
        let mut room = [0; MAX_HEADER];
        let end = header.write(&mut room);
        image.extend_from_slice(&room[..end]);
        let start = image.len();
        image.extend_from_slice(payload);
        if let Some(key) = header.mask {
            mask(&mut image[start..], key, 0);
        }
    }
    image
}

/// Whoever loses or damages something is in no contest.
fn loses_nothing(name: &str, decode: &mut Decode) {
    let mut seen = Vec::new();
    while seen.len() < 2 * PAYLOAD {
        decode(&mut |payload| seen.extend_from_slice(payload));
    }
    let sent = pattern(PAYLOAD);
    for seen in seen.chunks(PAYLOAD) {
        assert!(
            *seen == sent[..seen.len()],
            "{name} damages what it decodes"
        );
    }
}
