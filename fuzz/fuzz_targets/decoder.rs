//! The decoder against tungstenite's: the same messages, or a reason that only one of them has.
//!
//! Known differences, which are left out: the decoder returns text as bytes and does not check UTF-8;
//! it refuses lengths that are not in their shortest form, and close codes that must not be sent. The
//! decoder's own events do not depend on how the bytes are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::websocket::{Decoder, Event, FrameError, MAX_FRAME, Role};
use std::io::{self, Read, Write};
use tungstenite::protocol::{Role as PeerRole, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

#[derive(Debug, PartialEq)]
enum Found {
    Message(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close,
}

fuzz_target!(|input: (bool, u8, Vec<u8>)| {
    let (server, step, bytes) = input;
    let role = if server { Role::Server } else { Role::Client };
    let (ours, error) = decode(role, bytes.chunks(bytes.len().max(1)));
    let (pieces, piece_error) = decode(role, bytes.chunks(usize::from(step) + 1));
    assert_eq!(ours, pieces);
    assert_eq!(error, piece_error);

    let (theirs, their_error) = decode_by_peer(server, &bytes);
    if matches!(their_error, Some(Error::Utf8(_))) {
        return;
    }
    match error {
        Some(
            FrameError::NonMinimalLength(_)
            | FrameError::CloseCode(_)
            | FrameError::CloseReason
            | FrameError::Oversize { .. },
        ) => assert!(theirs.starts_with(&ours)),
        // tungstenite may still wait for the rest of the frame that the decoder refuses.
        Some(error) => {
            assert_eq!(ours, theirs);
            assert!(their_error.is_some(), "only ours: {error}");
        }
        None => {
            assert_eq!(ours, theirs);
            assert!(their_error.is_none_or(|error| is_end(&error)));
        }
    }
});

fn decode<'a>(
    role: Role,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Found>, Option<FrameError>) {
    let mut decoder = Decoder::new(role, MAX_FRAME);
    let mut found = Vec::new();
    let mut message = Vec::new();
    for piece in pieces {
        decoder.feed(piece);
        loop {
            match decoder.next_event() {
                Ok(None) => break,
                Ok(Some(Event::Data { payload, end, .. })) => {
                    message.extend_from_slice(payload);
                    if end {
                        found.push(Found::Message(std::mem::take(&mut message)));
                    }
                }
                Ok(Some(Event::Ping(payload))) => found.push(Found::Ping(payload.to_vec())),
                Ok(Some(Event::Pong(payload))) => found.push(Found::Pong(payload.to_vec())),
                Ok(Some(Event::Close { .. })) => {
                    found.push(Found::Close);
                    return (found, None);
                }
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

fn decode_by_peer(server: bool, bytes: &[u8]) -> (Vec<Found>, Option<Error>) {
    let role = if server {
        PeerRole::Server
    } else {
        PeerRole::Client
    };
    let config = WebSocketConfig::default()
        .max_message_size(None)
        .max_frame_size(Some(MAX_FRAME));
    let mut socket = WebSocket::from_raw_socket(Wire(bytes), role, Some(config));
    let mut found = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => found.push(Found::Message(text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => found.push(Found::Message(bytes.to_vec())),
            Ok(Message::Ping(bytes)) => found.push(Found::Ping(bytes.to_vec())),
            Ok(Message::Pong(bytes)) => found.push(Found::Pong(bytes.to_vec())),
            Ok(Message::Close(_)) => {
                found.push(Found::Close);
                return (found, None);
            }
            Ok(Message::Frame(_)) => {}
            Err(error) => return (found, Some(error)),
        }
    }
}

/// An error that only means that the bytes have ended.
fn is_end(error: &Error) -> bool {
    use tungstenite::error::ProtocolError;
    matches!(
        error,
        Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Io(_)
            | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
    )
}

/// Bytes to read; what is written is dropped.
struct Wire<'a>(&'a [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
