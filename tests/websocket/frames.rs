//! The decoder's result for each kind of frame: RFC 6455 §5 and §7.4 as tables. Each stream is
//! delivered whole, byte by byte and in random pieces, and the results must be equal.

use pve_tunnel::websocket::{Decoder, Event, FrameError, MAX_FRAME, Role};
use testing::frames::{
    Decoded, Outcome, Random, binary, decode, fragment, frame, frame_of_form, header, text,
};

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The key of the RFC's examples.
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Decodes the stream in different pieces and requires equal results.
fn delivered(role: Role, stream: &[u8]) -> Outcome {
    lengths_are_announced(role, stream);
    let whole = decode(role, [stream]);
    // A long frame is delivered byte by byte only at its beginning and end, to save time.
    if stream.len() < 4096 {
        assert_eq!(decode(role, stream.chunks(1)), whole, "byte by byte");
    } else {
        let (head, rest) = stream.split_at(2048);
        let (middle, tail) = rest.split_at(rest.len() - 1024);
        let pieces = head.chunks(1).chain([middle]).chain(tail.chunks(1));
        assert_eq!(decode(role, pieces), whole, "byte by byte at both ends");
    }
    for seed in 0..8 {
        let mut random = Random(seed);
        let longest = [3, 20, 5000, 140_000][random.below(4)];
        let pieces = random.cut(stream, longest);
        assert_eq!(decode(role, pieces), whole, "in pieces, seed {seed}");
    }
    whole
}

/// Before each event, the decoder returns the length of its payload, and reserved memory is enough for
/// the bytes that are fed.
fn lengths_are_announced(role: Role, stream: &[u8]) {
    let mut decoder = Decoder::new(role, MAX_FRAME);
    for piece in Random(1).cut(stream, 3000) {
        decoder.try_reserve(piece.len()).unwrap();
        decoder.feed(piece);
        loop {
            let announced = decoder.next_payload_len();
            let length = match decoder.next_event() {
                Ok(Some(
                    Event::Data { payload, .. } | Event::Ping(payload) | Event::Pong(payload),
                )) => Some(payload.len()),
                Ok(Some(Event::Close { code, reason })) => {
                    Some(code.map_or(0, |_| 2) + reason.len())
                }
                Ok(None) => None,
                Err(_) => return,
            };
            assert_eq!(announced, length);
            if length.is_none() {
                break;
            }
        }
    }
}

#[track_caller]
fn accepts(role: Role, stream: &[u8], expected: &[Decoded]) {
    let (seen, result) = delivered(role, stream);
    assert_eq!(result, Ok(()));
    assert!(
        seen == expected,
        "expected {expected:.200?}, decoded {seen:.200?}"
    );
}

/// Requires the data before the wrong frame, then this error.
#[track_caller]
fn refuses(role: Role, stream: &[u8], before: &[Decoded], reason: &FrameError) {
    let (seen, result) = delivered(role, stream);
    assert_eq!(result.as_ref(), Err(reason));
    assert_eq!(seen, before);
}

#[test]
fn the_examples_of_rfc_6455_section_5_7() {
    accepts(
        Role::Client,
        &[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f],
        &[text("Hello")],
    );
    accepts(
        Role::Server,
        &[
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ],
        &[text("Hello")],
    );
    accepts(
        Role::Client,
        &[0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f],
        &[text("Hello")],
    );
    accepts(
        Role::Client,
        &[0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f],
        &[Decoded::Ping(b"Hello".to_vec())],
    );
    accepts(
        Role::Server,
        &[
            0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
        ],
        &[Decoded::Pong(b"Hello".to_vec())],
    );
    let bytes: Vec<u8> = (0..65536_u32).map(|i| (i * 7) as u8).collect();
    let short = [&[0x82, 0x7e, 0x01, 0x00], &bytes[..256]].concat();
    accepts(Role::Client, &short, &[binary(&bytes[..256])]);
    let long = [&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0], &bytes[..]].concat();
    accepts(Role::Client, &long, &[binary(&bytes)]);
}

#[test]
fn every_form_of_length_is_accepted_masked_and_unmasked() {
    for length in [0, 1, 125, 126, 127, 65_535, 65_536, 131_071, 131_072] {
        let payload = Random(length as u64).bytes(length);
        for first in [FIN | BINARY, FIN | TEXT] {
            let expected = Decoded::Data {
                payload: payload.clone(),
                text: first & 0xf == TEXT,
                end: true,
            };
            let stream = frame(first, None, &payload);
            accepts(Role::Client, &stream, std::slice::from_ref(&expected));
            for key in [KEY, [0; 4], [0xff, 0, 1, 0x80]] {
                let stream = frame(first, Some(key), &payload);
                accepts(Role::Server, &stream, std::slice::from_ref(&expected));
            }
        }
    }
}

#[test]
fn frames_above_the_limit_are_refused_when_their_header_arrives() {
    for length in [
        131_073,
        1 << 20,
        u64::from(u32::MAX),
        u64::from(u32::MAX) + 2,
        i64::MAX as u64,
        1 << 63,
        u64::MAX,
    ] {
        let reason = FrameError::Oversize {
            length,
            limit: MAX_FRAME,
        };
        let before = frame(FIN | BINARY, None, b"fine");
        let stream = [before, header(FIN | BINARY, false, length, 8)].concat();
        refuses(Role::Client, &stream, &[binary(b"fine")], &reason);
        // Before the masking key has arrived.
        refuses(
            Role::Server,
            &header(FIN | TEXT, true, length, 8),
            &[],
            &reason,
        );
        // The limit applies to a continuation as well.
        let stream = [
            frame(BINARY, None, b"x"),
            header(FIN | CONTINUATION, false, length, 8),
        ]
        .concat();
        refuses(Role::Client, &stream, &[fragment(b"x")], &reason);
    }
}

#[test]
fn the_caller_sets_the_limit() {
    for (limit, length, taken) in [(0, 0, true), (0, 1, false), (10, 10, true), (10, 11, false)] {
        let mut decoder = Decoder::new(Role::Client, limit);
        decoder.feed(&frame(FIN | BINARY, None, &vec![7; length]));
        let oversize = FrameError::Oversize {
            length: length as u64,
            limit,
        };
        match decoder.next_event() {
            Ok(Some(Event::Data { payload, .. })) => {
                assert!(taken && payload.len() == length);
            }
            other => assert!(!taken && other == Err(oversize), "{other:?}"),
        }
    }
}

#[test]
fn lengths_in_a_longer_form_than_needed_are_refused() {
    for (length, form) in [
        (0, 2),
        (1, 2),
        (125, 2),
        (0, 8),
        (125, 8),
        (126, 8),
        (65_535, 8),
    ] {
        let payload = vec![1; length];
        let reason = FrameError::NonMinimalLength(length as u64);
        let stream = frame_of_form(FIN | BINARY, None, &payload, form);
        refuses(Role::Client, &stream, &[], &reason);
        let stream = frame_of_form(FIN | BINARY, Some(KEY), &payload, form);
        refuses(Role::Server, &stream, &[], &reason);
    }
    for form in [2, 8] {
        let stream = frame_of_form(FIN | PING, None, b"short", form);
        refuses(Role::Client, &stream, &[], &FrameError::NonMinimalLength(5));
    }
}

#[test]
fn fragments_may_be_empty_and_have_control_frames_between_them() {
    // Two fragments and three, in both kinds of message.
    for opcode in [TEXT, BINARY] {
        let whole = |payload: &[u8]| Decoded::Data {
            payload: payload.to_vec(),
            text: opcode == TEXT,
            end: true,
        };
        for pieces in [
            &[&b"one"[..], b"two"][..],
            &[b"a", b"b", b"c"],
            &[b"", b"after an empty one"],
            &[b"before an empty one", b""],
            &[b"around", b"", b"an empty one"],
            &[b"", b""],
            &[b"", b"", b"x", b"", b""],
        ] {
            let mut stream = Vec::new();
            let mut masked = Vec::new();
            for (i, piece) in pieces.iter().enumerate() {
                let opcode = if i == 0 { opcode } else { CONTINUATION };
                let fin = if i + 1 == pieces.len() { FIN } else { 0 };
                stream.extend(frame(fin | opcode, None, piece));
                masked.extend(frame(fin | opcode, Some(KEY), piece));
            }
            accepts(Role::Client, &stream, &[whole(&pieces.concat())]);
            accepts(Role::Server, &masked, &[whole(&pieces.concat())]);
        }
    }
    let stream = [
        frame(BINARY, None, b"one"),
        frame(FIN | PING, None, b"?"),
        frame(FIN | PONG, None, b""),
        frame(CONTINUATION, None, b"two"),
        frame(FIN | PING, None, b""),
        frame(FIN | CONTINUATION, None, b"three"),
        frame(FIN | BINARY, None, b"next"),
    ];
    let expected = [
        fragment(b"one"),
        Decoded::Ping(b"?".to_vec()),
        Decoded::Pong(Vec::new()),
        fragment(b"two"),
        Decoded::Ping(Vec::new()),
        binary(b"three"),
        binary(b"next"),
    ];
    accepts(Role::Client, &stream.concat(), &expected);
    // A close frame inside a message does not complete the message.
    let stream = [
        frame(BINARY, None, b"one"),
        frame(FIN | CLOSE, None, &1001_u16.to_be_bytes()),
    ];
    accepts(
        Role::Client,
        &stream.concat(),
        &[fragment(b"one"), Decoded::Close(Some(1001), String::new())],
    );
}

#[test]
fn empty_messages_are_accepted() {
    let stream = [
        frame(FIN | BINARY, None, b""),
        frame(FIN | TEXT, None, b""),
        frame(FIN | BINARY, None, b"x"),
    ];
    accepts(
        Role::Client,
        &stream.concat(),
        &[binary(b""), text(""), binary(b"x")],
    );
}

#[test]
fn control_frames_have_at_most_125_bytes() {
    for length in [0, 1, 124, 125] {
        let payload = Random(1).bytes(length);
        for (opcode, expected) in [
            (PING, Decoded::Ping(payload.clone())),
            (PONG, Decoded::Pong(payload.clone())),
        ] {
            let stream = frame(FIN | opcode, None, &payload);
            accepts(Role::Client, &stream, std::slice::from_ref(&expected));
            let stream = frame(FIN | opcode, Some(KEY), &payload);
            accepts(Role::Server, &stream, std::slice::from_ref(&expected));
        }
    }
    for opcode in [CLOSE, PING, PONG] {
        for (length, form) in [(126, 2), (127, 2), (65_535, 2), (65_536, 8), (u64::MAX, 8)] {
            let stream = header(FIN | opcode, false, length, form);
            let reason = FrameError::ControlTooLong(length);
            refuses(Role::Client, &stream, &[], &reason);
        }
    }
}

#[test]
fn fragmented_control_frames_are_refused() {
    for opcode in [CLOSE, PING, PONG] {
        let stream = frame(opcode, None, b"");
        refuses(Role::Client, &stream, &[], &FrameError::ControlFragmented);
        let stream = [frame(BINARY, None, b"x"), frame(opcode, None, b"")].concat();
        let reason = FrameError::ControlFragmented;
        refuses(Role::Client, &stream, &[fragment(b"x")], &reason);
    }
}

#[test]
fn reserved_bits_are_refused_in_every_kind_of_frame() {
    for bits in 1..8_u8 {
        for opcode in [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG] {
            let first = FIN | bits << 4 | opcode;
            let reason = FrameError::ReservedBits(first);
            refuses(Role::Client, &frame(first, None, b""), &[], &reason);
            refuses(Role::Server, &frame(first, Some(KEY), b""), &[], &reason);
        }
    }
}

#[test]
fn unknown_opcodes_are_refused() {
    for opcode in (3..=7).chain(11..=15) {
        for fin in [0, FIN] {
            let reason = FrameError::UnknownOpCode(opcode);
            let stream = frame(fin | opcode, None, b"x");
            refuses(Role::Client, &stream, &[], &reason);
        }
    }
}

#[test]
fn a_masked_frame_from_a_server_and_an_unmasked_from_a_client_are_refused() {
    for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
        let stream = frame(FIN | opcode, Some(KEY), b"");
        refuses(Role::Client, &stream, &[], &FrameError::MaskedByServer);
        // A frame with a key of zero is masked.
        let stream = frame(FIN | opcode, Some([0; 4]), b"");
        refuses(Role::Client, &stream, &[], &FrameError::MaskedByServer);
        let stream = frame(FIN | opcode, None, b"");
        refuses(Role::Server, &stream, &[], &FrameError::UnmaskedByClient);
    }
}

#[test]
fn continuations_outside_a_message_and_messages_inside_another_are_refused() {
    let reason = FrameError::UnexpectedContinuation;
    for fin in [0, FIN] {
        let stream = frame(fin | CONTINUATION, None, b"x");
        refuses(Role::Client, &stream, &[], &reason);
        let stream = [frame(FIN | BINARY, None, b"whole"), stream].concat();
        refuses(Role::Client, &stream, &[binary(b"whole")], &reason);
        // A ping does not begin a message.
        let stream = [
            frame(FIN | PING, None, b""),
            frame(fin | CONTINUATION, None, b""),
        ]
        .concat();
        refuses(Role::Client, &stream, &[Decoded::Ping(Vec::new())], &reason);
        for opcode in [TEXT, BINARY] {
            let stream = [
                frame(BINARY, None, b"begun"),
                frame(fin | opcode, None, b"x"),
            ]
            .concat();
            let reason = FrameError::UnfinishedMessage;
            refuses(Role::Client, &stream, &[fragment(b"begun")], &reason);
        }
    }
}

#[test]
fn close_frames_have_a_code_and_a_utf8_reason_or_are_empty() {
    let close = |payload: &[u8]| frame(FIN | CLOSE, None, payload);
    let with = |code: u16, reason: &[u8]| close(&[&code.to_be_bytes(), reason].concat());
    accepts(
        Role::Client,
        &close(b""),
        &[Decoded::Close(None, String::new())],
    );
    refuses(
        Role::Client,
        &close(b"\x03"),
        &[],
        &FrameError::CloseTooShort,
    );
    let longest = "ä".repeat(61) + "!";
    assert_eq!(longest.len(), 123);
    for reason in ["", "x", &longest] {
        let expected = Decoded::Close(Some(1000), reason.to_owned());
        accepts(Role::Client, &with(1000, reason.as_bytes()), &[expected]);
    }
    let masked = frame(FIN | CLOSE, Some(KEY), b"\x03\xe8done");
    let expected = Decoded::Close(Some(1000), "done".to_owned());
    accepts(Role::Server, &masked, &[expected]);
    for reason in [&b"\xff"[..], b"half of \xc3", b"\xed\xa0\x80"] {
        refuses(
            Role::Client,
            &with(1000, reason),
            &[],
            &FrameError::CloseReason,
        );
    }
}

#[test]
fn close_codes_that_may_not_be_sent_are_refused() {
    // RFC 6455 §7.4: 1004 to 1006 and 1015 are never sent, 1016 to 2999 are not assigned.
    let allowed =
        |code: u16| matches!(code, 1000..=1003 | 1007..=1014) || (3000..5000).contains(&code);
    for code in (0..=u16::MAX).filter(|code| *code < 5100 || code % 911 == 0) {
        let stream = frame(FIN | CLOSE, None, &code.to_be_bytes());
        let (seen, result) = decode(Role::Client, [&stream[..]]);
        if allowed(code) {
            assert_eq!(result, Ok(()));
            assert_eq!(seen, [Decoded::Close(Some(code), String::new())]);
        } else {
            assert_eq!(result, Err(FrameError::CloseCode(code)));
        }
    }
}

#[test]
fn data_after_a_close_frame_is_ignored() {
    let close = frame(FIN | CLOSE, None, b"\x03\xe8");
    for rest in [
        &b"\xff\xff\xff\xff"[..],
        &frame(FIN | BINARY, None, b"late"),
        &[0; 300_000],
    ] {
        let stream = [&close, rest].concat();
        let expected = [Decoded::Close(Some(1000), String::new())];
        accepts(Role::Client, &stream, &expected);
    }
}

#[test]
fn a_stream_may_end_only_between_messages() {
    let stream = [
        frame(BINARY, None, b"one"),
        frame(FIN | PING, None, b"?"),
        frame(FIN | CONTINUATION, None, b"two"),
    ]
    .concat();
    let mut decoder = Decoder::new(Role::Client, MAX_FRAME);
    assert!(decoder.is_between_messages());
    for (i, byte) in stream.iter().enumerate() {
        decoder.feed(&[*byte]);
        while decoder.next_event().unwrap().is_some() {}
        let last = i + 1 == stream.len();
        assert_eq!(decoder.is_between_messages(), last, "after byte {i}");
    }
}

#[test]
fn memory_is_bounded_whatever_a_peer_announces_or_sends() {
    let mut decoder = Decoder::new(Role::Client, MAX_FRAME);
    let stream = frame(FIN | BINARY, None, &vec![7; MAX_FRAME]);
    let mut total = 0;
    for _ in 0..100 {
        for piece in stream.chunks(10_000) {
            decoder.feed(piece);
            while let Some(event) = decoder.next_event().unwrap() {
                if let Event::Data { payload, .. } = event {
                    total += payload.len();
                }
            }
            // Nearly the whole buffer is free: no data accumulates.
            assert!(decoder.space(0).len() <= 20_000);
        }
    }
    assert_eq!(total, 100 * MAX_FRAME);
}
