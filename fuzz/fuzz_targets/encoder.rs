//! What the encoder writes, the decoder of the other end reads back: the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::websocket::{
    Decoder, Encoder, Event, MAX_FRAME, MAX_HEADER, Masking, OpCode, Role,
};

fuzz_target!(|input: (bool, bool, u8, Vec<u8>)| {
    let (server, random, repeat, payload) = input;
    let (own, other) = match server {
        true => (Role::Server, Role::Client),
        false => (Role::Client, Role::Server),
    };
    let masking = if random {
        Masking::Random
    } else {
        Masking::Zero
    };
    // Long enough, at times, for more than one frame.
    let payload = payload.repeat(usize::from(repeat) + 1);
    let mut encoder = Encoder::new(own, masking);

    let mut frames = Vec::new();
    encoder
        .encode(OpCode::Binary, &payload, &mut frames)
        .unwrap();
    assert_eq!(decode(other, &frames), payload);

    let payload = &payload[..payload.len().min(MAX_FRAME)];
    let mut buffer = vec![0; MAX_HEADER];
    buffer.extend_from_slice(payload);
    let start = encoder.encode_in_place(&mut buffer).unwrap();
    assert_eq!(decode(other, &buffer[start..]), payload);
});

fn decode(role: Role, frames: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::new(role, MAX_FRAME);
    decoder.feed(frames);
    let mut all = Vec::new();
    while let Some(event) = decoder.next_event().unwrap() {
        let Event::Data { payload, .. } = event else {
            panic!("not data: {event:?}")
        };
        all.extend_from_slice(payload);
    }
    assert!(decoder.is_between_messages());
    all
}
