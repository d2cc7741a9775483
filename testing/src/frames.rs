//! Websocket frames, correct and wrong, and a decoder that receives them in pieces.

use pve_tunnel::websocket::{Decoder, Event, FrameError, MAX_FRAME, Role};

/// What the decoder returned, independent of the pieces in which it received the stream: adjacent
/// data of one message is one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    Data {
        payload: Vec<u8>,
        text: bool,
        end: bool,
    },
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

/// A whole message.
pub fn binary(payload: &[u8]) -> Decoded {
    Decoded::Data {
        payload: payload.to_vec(),
        text: false,
        end: true,
    }
}

/// The first part of a message that is not complete.
pub fn fragment(payload: &[u8]) -> Decoded {
    Decoded::Data {
        payload: payload.to_vec(),
        text: false,
        end: false,
    }
}

/// A whole text message.
pub fn text(payload: &str) -> Decoded {
    Decoded::Data {
        payload: payload.as_bytes().to_vec(),
        text: true,
        end: true,
    }
}

pub type Outcome = (Vec<Decoded>, Result<(), FrameError>);

/// Feeds `pieces` to a decoder of `role` and takes every event after each piece.
pub fn decode<'p>(role: Role, pieces: impl IntoIterator<Item = &'p [u8]>) -> Outcome {
    let mut decoder = Decoder::new(role, MAX_FRAME);
    let mut seen = Vec::new();
    for piece in pieces {
        decoder.feed(piece);
        loop {
            match decoder.next_event() {
                Ok(Some(event)) => push(&mut seen, event),
                Ok(None) => break,
                Err(error) => return (seen, Err(error)),
            }
        }
    }
    (seen, Ok(()))
}

fn push(seen: &mut Vec<Decoded>, event: Event<'_>) {
    match event {
        Event::Data { payload, text, end } => {
            if let Some(Decoded::Data {
                payload: before,
                text: same,
                end: ended @ false,
            }) = seen.last_mut()
            {
                assert_eq!(*same, text, "all data of a message has one type");
                before.extend_from_slice(payload);
                *ended = end;
                return;
            }
            seen.push(Decoded::Data {
                payload: payload.to_vec(),
                text,
                end,
            });
        }
        Event::Ping(payload) => seen.push(Decoded::Ping(payload.to_vec())),
        Event::Pong(payload) => seen.push(Decoded::Pong(payload.to_vec())),
        Event::Close { code, reason } => seen.push(Decoded::Close(code, reason.to_owned())),
    }
}

/// Pseudo-random numbers (SplitMix64) that are the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.number() as u8).collect()
    }

    /// Cuts `stream` into pieces of random length up to `longest`. Some are empty.
    pub fn cut<'s>(&mut self, mut stream: &'s [u8], longest: usize) -> Vec<&'s [u8]> {
        let mut pieces = Vec::new();
        while !stream.is_empty() {
            let (piece, rest) = stream.split_at(self.below(longest + 1).min(stream.len()));
            pieces.push(piece);
            stream = rest;
        }
        pieces
    }
}

/// The bytes of a frame, which may be wrong: `first` is its first byte, the length has its shortest
/// form, and the payload is masked if there is a key.
pub fn frame(first: u8, key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let form = match payload.len() {
        0..=125 => 0,
        126..=0xffff => 2,
        _ => 8,
    };
    frame_of_form(first, key, payload, form)
}

/// The same, with the length in a form of zero, two or eight additional bytes.
pub fn frame_of_form(first: u8, key: Option<[u8; 4]>, payload: &[u8], form: usize) -> Vec<u8> {
    let mut bytes = header(first, key.is_some(), payload.len() as u64, form);
    match key {
        None => bytes.extend_from_slice(payload),
        Some(key) => {
            bytes.extend_from_slice(&key);
            let masked = payload.iter().zip(key.iter().cycle());
            bytes.extend(masked.map(|(byte, key)| byte ^ key));
        }
    }
    bytes
}

/// A header without its masking key.
pub fn header(first: u8, masked: bool, length: u64, form: usize) -> Vec<u8> {
    let code = match form {
        0 => length as u8,
        2 => 126,
        _ => 127,
    };
    let mut bytes = vec![first, if masked { 0x80 | code } else { code }];
    bytes.extend_from_slice(&length.to_be_bytes()[8 - form..]);
    bytes
}
