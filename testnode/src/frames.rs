//! Incoming and outgoing frames, using the codec of tungstenite (RFC 6455, section 5).

use std::io::{self, Read};

use thiserror::Error;
use tokio_tungstenite::tungstenite;
use tungstenite::error::{CapacityError, Error as WsError};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameSocket};

use crate::misbehave::FRAME_LIMIT;

/// A frame that the client may send.
pub(crate) enum Incoming {
    /// Payload of a text or binary frame.
    Data(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close,
}

/// Why a frame was rejected. pveproxy rejects all of these too.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    #[error("a frame is fragmented")]
    Fragmented,
    #[error("a frame has reserved bits set")]
    ReservedBits,
    #[error("a frame is not masked")]
    NotMasked,
    #[error("a frame has the opcode {0}")]
    OpCode(u8),
    #[error("a frame carries {0} bytes, more than 131072")]
    TooLarge(usize),
    #[error("{0}")]
    Malformed(Box<WsError>),
}

/// Decodes the received bytes into frames.
pub(crate) struct Reader {
    socket: FrameSocket<ReceiveBuffer>,
    /// Number of frames received with a mask other than 00000000.
    pub(crate) masked: u64,
    /// Number of data frames received.
    pub(crate) data_frames: u64,
    /// Number of frames of any kind received.
    pub(crate) frames: u64,
}

impl Reader {
    /// `early` holds the bytes that arrived together with the end of the request.
    pub(crate) fn new(early: Vec<u8>) -> Self {
        let socket = FrameSocket::from_partially_read(ReceiveBuffer(Vec::new()), early);
        Self {
            socket,
            masked: 0,
            data_frames: 0,
            frames: 0,
        }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.socket.get_mut().0.extend_from_slice(bytes);
    }

    /// The next frame, or `None` if it has not arrived completely.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming>, FrameError> {
        match self.socket.read(Some(FRAME_LIMIT)) {
            Ok(Some(frame)) => self.accept(frame).map(Some),
            Ok(None) => Ok(None),
            Err(WsError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(WsError::Capacity(CapacityError::MessageTooLong { size, .. })) => {
                Err(FrameError::TooLarge(size))
            }
            Err(error) => Err(FrameError::Malformed(Box::new(error))),
        }
    }

    fn accept(&mut self, frame: Frame) -> Result<Incoming, FrameError> {
        let header = frame.header().clone();
        if !header.is_final {
            return Err(FrameError::Fragmented);
        }
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(FrameError::ReservedBits);
        }
        let Some(mask) = header.mask else {
            return Err(FrameError::NotMasked);
        };
        self.frames += 1;
        self.masked += u64::from(mask != [0; 4]);
        let payload = unmask(frame)?;
        match header.opcode {
            OpCode::Data(Data::Text | Data::Binary) => {
                self.data_frames += 1;
                Ok(Incoming::Data(payload))
            }
            OpCode::Control(Control::Ping) => Ok(Incoming::Ping(payload)),
            OpCode::Control(Control::Pong) => Ok(Incoming::Pong(payload)),
            OpCode::Control(Control::Close) => Ok(Incoming::Close),
            other => Err(FrameError::OpCode(other.into())),
        }
    }
}

/// Unmasks the payload. Tungstenite has no public function for it, but `Frame::format` applies the
/// mask, and applying a mask twice removes it.
fn unmask(frame: Frame) -> Result<Vec<u8>, FrameError> {
    let payload_len = frame.payload().len();
    let mut formatted = Vec::with_capacity(frame.len());
    frame
        .format(&mut formatted)
        .map_err(|error| FrameError::Malformed(Box::new(error)))?;
    formatted.drain(..formatted.len() - payload_len);
    Ok(formatted)
}

/// Received bytes that the codec has not read yet.
struct ReceiveBuffer(Vec<u8>);

impl Read for ReceiveBuffer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            // 0 would mean end of file.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = buffer.len().min(self.0.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0.drain(..count);
        Ok(count)
    }
}

/// An encoded message, or the first, a middle or the last fragment of one.
pub(crate) fn data(payload: &[u8], first: bool, last: bool) -> Vec<u8> {
    let opcode = if first { Data::Binary } else { Data::Continue };
    bytes(Frame::message(payload.to_vec(), OpCode::Data(opcode), last))
}

pub(crate) fn ping(payload: &[u8]) -> Vec<u8> {
    bytes(Frame::ping(payload.to_vec()))
}

pub(crate) fn pong(payload: Vec<u8>) -> Vec<u8> {
    bytes(Frame::pong(payload))
}

pub(crate) fn close(code: CloseCode, reason: &str) -> Vec<u8> {
    bytes(Frame::close(Some(CloseFrame {
        code,
        reason: reason.into(),
    })))
}

fn bytes(frame: Frame) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(frame.len());
    // Writing to memory cannot fail.
    let _ = frame.format(&mut buffer);
    buffer
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Incoming, Reader, data};

    /// The masked "Hello" of RFC 6455, section 5.7.
    const HELLO: [u8; 11] = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];

    #[test]
    fn accepts_a_masked_frame_byte_by_byte() {
        let mut reader = Reader::new(HELLO[..3].to_vec());
        for byte in &HELLO[3..] {
            assert!(reader.next().unwrap().is_none());
            reader.feed(std::slice::from_ref(byte));
        }
        assert!(matches!(reader.next().unwrap(), Some(Incoming::Data(text)) if text == b"Hello"));
        assert_eq!((reader.masked, reader.frames), (1, 1));
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn rejects_the_frames_that_pveproxy_rejects() {
        let large: &[u8] = &[0x82, 0xff, 0, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0];
        let table: [(&[u8], &str); 6] = [
            (&[0x02, 0x80, 0, 0, 0, 0], "fragmented"),
            (&[0xc2, 0x80, 0, 0, 0, 0], "reserved bits"),
            (&[0x82, 0x01, 0x41], "not masked"),
            (&[0x80, 0x80, 0, 0, 0, 0], "opcode 0"),
            (&[0x83, 0x80, 0, 0, 0, 0], "opcode"),
            (large, "131073 bytes"),
        ];
        for (frame, reason) in table {
            let refusal = Reader::new(frame.to_vec())
                .next()
                .err()
                .unwrap()
                .to_string();
            assert!(
                refusal.to_lowercase().contains(reason),
                "{frame:02x?}: {refusal}"
            );
        }
    }

    #[test]
    fn sends_unmasked_frames() {
        assert_eq!(data(b"Hi", true, true), [0x82, 2, b'H', b'i']);
        assert_eq!(data(b"Hi", true, false), [0x02, 2, b'H', b'i']);
        assert_eq!(data(b"Hi", false, true), [0x80, 2, b'H', b'i']);
    }
}
