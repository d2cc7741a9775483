//! Frames of our codec read by tungstenite, frames of tungstenite read by our codec, and damaged
//! streams read by both.

use pve_tunnel::websocket::{
    Encoder, FrameError, MAX_FRAME, MAX_HEADER, Masking, OpCode, Role, mask,
};
use std::collections::HashSet;
use std::io::{Cursor, Read, Write};
use testing::frames::{Decoded, Outcome, Random, binary, decode, frame, text};
use tungstenite::protocol::frame::coding::{Control, Data, OpCode as TheirOpCode};
use tungstenite::protocol::frame::{Frame, FrameSocket};
use tungstenite::protocol::{Role as TheirRole, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

/// A stream with data to read. It discards what is written.
struct Incoming(Cursor<Vec<u8>>);

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The frames that tungstenite's frame reader returns, still masked.
fn their_frames(bytes: Vec<u8>) -> Vec<Frame> {
    let mut socket = FrameSocket::new(Cursor::new(bytes));
    let mut frames = Vec::new();
    while let Some(frame) = socket.read(None).unwrap() {
        frames.push(frame);
    }
    let (_, rest) = socket.into_inner();
    assert!(rest.is_empty(), "{} bytes are not a frame", rest.len());
    frames
}

/// The messages that tungstenite reads, up to a close frame, an error or the end.
fn their_messages(role: Role, bytes: Vec<u8>) -> (Vec<Decoded>, Option<Error>) {
    let role = match role {
        Role::Client => TheirRole::Client,
        Role::Server => TheirRole::Server,
    };
    let config = WebSocketConfig::default()
        .max_frame_size(Some(MAX_FRAME))
        .max_message_size(None);
    let mut socket = WebSocket::from_raw_socket(Incoming(Cursor::new(bytes)), role, Some(config));
    let mut seen = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Binary(payload)) => seen.push(binary(&payload)),
            Ok(Message::Text(payload)) => seen.push(text(&payload)),
            Ok(Message::Ping(payload)) => seen.push(Decoded::Ping(payload.to_vec())),
            Ok(Message::Pong(payload)) => seen.push(Decoded::Pong(payload.to_vec())),
            Ok(Message::Close(close)) => {
                let code = close.as_ref().map(|close| close.code.into());
                let reason = close.map_or(String::new(), |close| close.reason.to_string());
                seen.push(Decoded::Close(code, reason));
                return (seen, None);
            }
            Ok(Message::Frame(frame)) => panic!("a raw frame: {frame}"),
            Err(Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => return (seen, None),
            Err(error) => return (seen, Some(error)),
        }
    }
}

/// The messages that our codec reads, in the order in which they end.
fn our_messages((seen, result): Outcome) -> (Vec<Decoded>, Option<FrameError>) {
    let mut whole = Vec::new();
    let mut begun: Vec<u8> = Vec::new();
    for entry in seen {
        match entry {
            Decoded::Data { payload, text, end } => {
                begun.extend_from_slice(&payload);
                if end {
                    let payload = std::mem::take(&mut begun);
                    whole.push(Decoded::Data { payload, text, end });
                }
            }
            control => whole.push(control),
        }
    }
    (whole, result.err())
}

fn encoded(role: Role, masking: Masking, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(role, masking);
    encoder.encode(opcode, payload, &mut out).unwrap();
    assert_eq!(out.len(), encoder.encoded_len(payload.len()));
    out
}

fn sizes() -> impl Iterator<Item = usize> {
    [0, 1, 125, 126, 127, 4096, 65_535, 65_536, 131_071, 131_072].into_iter()
}

#[test]
fn a_clients_frames_are_final_binary_masked_and_hold_the_payload() {
    for masking in [Masking::Zero, Masking::Random] {
        for size in sizes() {
            let payload = Random(size as u64).bytes(size);
            let bytes = encoded(Role::Client, masking, OpCode::Binary, &payload);
            let frames = their_frames(bytes.clone());
            let [frame] = &frames[..] else {
                panic!("{} frames for {size} bytes", frames.len())
            };
            let header = frame.header();
            assert!(header.is_final && !header.rsv1 && !header.rsv2 && !header.rsv3);
            assert_eq!(header.opcode, TheirOpCode::Data(Data::Binary));
            let key = header.mask.expect("a client masks");
            if masking == Masking::Zero {
                assert_eq!(key, [0; 4]);
            }
            let mut unmasked = frame.payload().to_vec();
            mask(&mut unmasked, key, 0);
            assert!(unmasked == payload, "{size} bytes");
            // The same with tungstenite's complete protocol implementation.
            let (messages, error) = their_messages(Role::Server, bytes);
            assert!(error.is_none() && messages == [binary(&payload)], "{size}");
        }
    }
}

#[test]
fn a_servers_frames_are_unmasked() {
    for masking in [Masking::Zero, Masking::Random] {
        let bytes = encoded(Role::Server, masking, OpCode::Text, b"Hello");
        assert_eq!(bytes, b"\x81\x05Hello", "RFC 6455 section 5.7");
        let (messages, error) = their_messages(Role::Client, bytes);
        assert!(error.is_none());
        assert_eq!(messages, [text("Hello")]);
    }
}

#[test]
fn data_above_the_limit_becomes_several_messages() {
    for (size, expected) in [
        (MAX_FRAME, 1),
        (MAX_FRAME + 1, 2),
        (2 * MAX_FRAME, 2),
        (10 * MAX_FRAME + 12_345, 11),
    ] {
        let payload = Random(3).bytes(size);
        let bytes = encoded(Role::Client, Masking::Random, OpCode::Binary, &payload);
        let (messages, error) = their_messages(Role::Server, bytes.clone());
        assert!(error.is_none());
        assert_eq!(messages.len(), expected, "{size} bytes");
        for frame in their_frames(bytes.clone()) {
            assert!(frame.payload().len() <= MAX_FRAME && frame.header().is_final);
        }
        let (ours, result) = decode(Role::Server, [&bytes[..]]);
        assert_eq!(result, Ok(()));
        assert!(ours == messages, "{size} bytes");
        let whole: Vec<u8> = ours
            .into_iter()
            .flat_map(|message| match message {
                Decoded::Data { payload, .. } => payload,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(whole == payload, "{size} bytes");
    }
}

#[test]
fn random_keys_differ_from_frame_to_frame_and_from_encoder_to_encoder() {
    let mut keys = HashSet::new();
    for _ in 0..64 {
        // Each payload needs two frames.
        let bytes = encoded(
            Role::Client,
            Masking::Random,
            OpCode::Binary,
            &vec![0; MAX_FRAME + 1],
        );
        for frame in their_frames(bytes) {
            keys.insert(frame.header().mask.unwrap());
        }
    }
    // 128 keys of 32 bits: a chance of 2e-6 that any two are equal, and none that four are.
    assert!(keys.len() > 125, "{} keys", keys.len());
    for position in 0..4 {
        let bytes: HashSet<u8> = keys.iter().map(|key| key[position]).collect();
        assert!(bytes.len() > 32, "all four bytes are random");
    }
}

#[test]
fn control_frames_above_125_bytes_are_refused() {
    let mut encoder = Encoder::new(Role::Client, Masking::Random);
    for (opcode, control) in [
        (OpCode::Ping, Control::Ping),
        (OpCode::Pong, Control::Pong),
        (OpCode::Close, Control::Close),
    ] {
        for size in [0, 2, 125] {
            let payload = vec![b'a'; size];
            let frames = their_frames(encoded(Role::Client, Masking::Zero, opcode, &payload));
            assert_eq!(frames.len(), 1);
            assert_eq!(frames[0].header().opcode, TheirOpCode::Control(control));
            assert!(frames[0].header().is_final && frames[0].payload() == payload);
        }
        let mut out = b"before".to_vec();
        let result = encoder.encode(opcode, &[0; 126], &mut out);
        assert_eq!(result, Err(FrameError::ControlTooLong(126)));
        assert_eq!(out, b"before", "a refused frame is not written");
    }
}

#[test]
fn a_continuation_is_never_encoded() {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(Role::Client, Masking::Zero);
    let result = encoder.encode(OpCode::Continuation, b"x", &mut out);
    assert_eq!(result, Err(FrameError::UnexpectedContinuation));
    assert!(out.is_empty());
}

#[test]
fn encoding_in_place_equals_encoding_a_copy() {
    for role in [Role::Client, Role::Server] {
        let mut encoder = Encoder::new(role, Masking::Zero);
        for size in sizes() {
            let payload = Random(5).bytes(size);
            let mut buffer = [&[0xee; MAX_HEADER][..], &payload].concat();
            let start = encoder.encode_in_place(&mut buffer).unwrap();
            let copy = encoded(role, Masking::Zero, OpCode::Binary, &payload);
            assert!(buffer[start..] == copy, "{size} bytes");
            assert!(buffer[..start].iter().all(|&byte| byte == 0xee));
        }
    }
    // Random keys differ, so the test compares the payloads and not the bytes.
    let mut encoder = Encoder::new(Role::Client, Masking::Random);
    for size in sizes() {
        let payload = Random(6).bytes(size);
        let mut buffer = [&[0; MAX_HEADER][..], &payload].concat();
        let start = encoder.encode_in_place(&mut buffer).unwrap();
        let (messages, error) = their_messages(Role::Server, buffer[start..].to_vec());
        assert!(error.is_none() && messages == [binary(&payload)], "{size}");
    }
}

#[test]
fn encoding_in_place_refuses_what_exceeds_the_limits() {
    let mut encoder = Encoder::new(Role::Client, Masking::Zero);
    let mut buffer = vec![0; MAX_HEADER + MAX_FRAME + 1];
    assert_eq!(
        encoder.encode_in_place(&mut buffer),
        Err(FrameError::Oversize {
            length: MAX_FRAME as u64 + 1,
            limit: MAX_FRAME
        })
    );
    assert!(encoder.encode_in_place(&mut [0; MAX_HEADER - 1]).is_err());
}

#[test]
fn frames_of_tungstenite_are_read() {
    for size in sizes() {
        let payload = Random(7).bytes(size);
        let data = TheirOpCode::Data(Data::Binary);
        let mut bytes = Vec::new();
        let frame = Frame::message(payload.clone(), data, true);
        frame.format(&mut bytes).unwrap();
        let (seen, result) = decode(Role::Client, bytes.chunks(1000));
        assert!(result.is_ok() && seen == [binary(&payload)], "{size} bytes");

        let mut written = Vec::new();
        let mut client =
            WebSocket::from_raw_socket(Cursor::new(&mut written), TheirRole::Client, None);
        client.send(Message::binary(payload.clone())).unwrap();
        client.send(Message::Ping(b"?".to_vec().into())).unwrap();
        client.close(None).unwrap();
        drop(client);
        let (seen, result) = decode(Role::Server, written.chunks(777));
        assert_eq!(result, Ok(()));
        let expected = [
            binary(&payload),
            Decoded::Ping(b"?".to_vec()),
            Decoded::Close(None, String::new()),
        ];
        assert!(seen == expected, "{size} bytes");
    }
}

/// A stream of frames, most of which are correct.
fn stream(random: &mut Random, role: Role) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut inside = false;
    for _ in 0..1 + random.below(6) {
        let size = [0, 1, 7, 125, 126, 200, 300][random.below(7)];
        let mut payload = random.bytes(size);
        let first = match random.below(10) {
            0 => 0x89,
            1 => 0x8a,
            2 => {
                payload = [&(995 + random.below(25) as u16).to_be_bytes()[..], b"end"].concat();
                0x88
            }
            3 => {
                payload.iter_mut().for_each(|byte| *byte &= 0x7f);
                if inside { 0x80 } else { 0x81 }
            }
            _ => {
                let fin = random.below(2) == 0;
                let opcode = if inside { 0 } else { 2 };
                inside = !fin;
                if fin { 0x80 | opcode } else { opcode }
            }
        };
        if first & 0x08 != 0 {
            payload.truncate(125);
        }
        if first == 0x80 || first == 0x81 {
            inside = false;
        }
        let key = (role == Role::Server).then(|| {
            let key = random.number().to_ne_bytes();
            [key[0], key[1], key[2], key[3]]
        });
        stream.extend(frame(first, key, &payload));
    }
    stream
}

/// Changes, removes or adds a few bytes.
fn damage(random: &mut Random, stream: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        let at = random.below(stream.len().max(1));
        match random.below(4) {
            0 if at < stream.len() => stream[at] = random.number() as u8,
            1 if at < stream.len() => stream[at] ^= 1 << random.below(8),
            2 if at < stream.len() => drop(stream.remove(at)),
            _ => stream.insert(at, random.number() as u8),
        }
    }
}

#[test]
fn damaged_streams_are_read_as_by_tungstenite() {
    const STREAMS: u64 = 20_000;
    let (mut both, mut refused) = (0, 0);
    for seed in 0..STREAMS {
        let mut random = Random(seed);
        let role = if seed % 2 == 0 {
            Role::Client
        } else {
            Role::Server
        };
        let mut bytes = stream(&mut random, role);
        damage(&mut random, &mut bytes);

        let whole = decode(role, [&bytes[..]]);
        let pieces = decode(role, random.cut(&bytes, 40));
        assert_eq!(pieces, whole, "stream {seed}");
        let (mut ours, our_error) = our_messages(whole);
        let (mut theirs, their_error) = their_messages(role, bytes);
        if let Some(Decoded::Close(Some(1014), _)) = ours.last() {
            // This code was registered with IANA after RFC 6455. Tungstenite does not support it.
            ours.pop();
            theirs.truncate(ours.len());
        }
        match (&our_error, &their_error) {
            (None, None) => {
                assert_eq!(ours, theirs, "stream {seed}");
                both += 1;
            }
            // Our codec transports bytes and does not verify that text is UTF-8.
            (_, Some(Error::Utf8(_))) => assert!(ours.starts_with(&theirs), "stream {seed}"),
            // Tungstenite verifies a frame only when it is complete, accepts lengths in any form,
            // and answers a wrong close code in place of refusing it.
            (Some(FrameError::NonMinimalLength(_) | FrameError::CloseCode(_)), _)
            | (Some(_), None) => assert!(theirs.starts_with(&ours), "stream {seed}"),
            (Some(_), Some(_)) => {
                assert_eq!(ours, theirs, "stream {seed}");
                refused += 1;
            }
            (None, Some(error)) => panic!("stream {seed}: tungstenite refuses it: {error}"),
        }
    }
    // The streams include correct and wrong ones.
    assert!(
        both > STREAMS / 4 && refused > STREAMS / 20,
        "{both}, {refused}"
    );
}
