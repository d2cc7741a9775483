//! Frame headers (RFC 6455 §5.2) and the rules that they must follow.

use thiserror::Error;

/// The longest payload of a data frame that pveproxy accepts or sends, in bytes. After a longer one it
/// ignores everything on the connection.
pub const MAX_FRAME: usize = 131_072;

/// The longest header: two bytes, a 64-bit length and a masking key.
pub const MAX_HEADER: usize = 14;

/// The longest payload of a control frame (RFC 6455 §5.5).
pub const MAX_CONTROL_PAYLOAD: usize = 125;

/// An end of a connection. A client sends masked frames and accepts unmasked ones; a server does the
/// opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end that opened the connection.
    Client,
    /// The end that accepted it.
    Server,
}

/// The kind of a frame (RFC 6455 §11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpCode {
    /// The next fragment of a message.
    Continuation,
    /// A text message. It is treated like a binary one, because the content is a byte stream.
    Text,
    /// A binary message.
    Binary,
    /// The sender sends nothing more.
    Close,
    /// Requests a pong with the same payload.
    Ping,
    /// Answers a ping.
    Pong,
}

impl OpCode {
    /// The code on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    /// The opcode for a code on the wire.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Continuation),
            1 => Some(Self::Text),
            2 => Some(Self::Binary),
            8 => Some(Self::Close),
            9 => Some(Self::Ping),
            10 => Some(Self::Pong),
            _ => None,
        }
    }

    /// Whether frames of this kind may occur between the fragments of a message.
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Why received bytes are not an acceptable frame, or why a frame cannot be sent.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// RSV1–3 are set, and no extension was negotiated.
    #[error("reserved bits are set in a frame header (0x{0:02x}), but no extension was negotiated")]
    ReservedBits(u8),
    /// An opcode that RFC 6455 does not define.
    #[error("unknown frame opcode {0}")]
    UnknownOpCode(u8),
    /// The server sent a masked frame.
    #[error("the server sent a masked frame")]
    MaskedByServer,
    /// The client sent an unmasked frame.
    #[error("the client sent an unmasked frame")]
    UnmaskedByClient,
    /// A length that is not in its shortest form.
    #[error("a frame of {0} bytes has its length in a longer form than needed")]
    NonMinimalLength(u64),
    /// A frame beyond the limit.
    #[error("a frame of {length} bytes is above the limit of {limit}")]
    Oversize {
        /// The length in the header.
        length: u64,
        /// The limit.
        limit: usize,
    },
    /// A ping, pong or close frame above 125 bytes.
    #[error("a control frame of {0} bytes is above the limit of 125")]
    ControlTooLong(u64),
    /// A ping, pong or close frame without FIN.
    #[error("a control frame is fragmented")]
    ControlFragmented,
    /// A continuation frame outside of a message.
    #[error("a continuation frame without a message to continue")]
    UnexpectedContinuation,
    /// A new message inside an unfinished one.
    #[error("a new message began before the last one's final fragment")]
    UnfinishedMessage,
    /// A close frame with half a close code.
    #[error("a close frame with a payload of one byte")]
    CloseTooShort,
    /// A close code that must not be on the wire (RFC 6455 §7.4).
    #[error("close code {0} must not be sent")]
    CloseCode(u16),
    /// A close reason that is not text.
    #[error("the reason in a close frame is not UTF-8")]
    CloseReason,
    /// The system's random number generator failed.
    #[error("no random masking key from the operating system")]
    NoRandom,
}

/// The header of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether this is the last fragment of its message.
    pub fin: bool,
    /// The kind of the frame.
    pub opcode: OpCode,
    /// The masking key, if the payload is masked.
    pub mask: Option<[u8; 4]>,
    /// Payload length in bytes.
    pub length: u64,
}

impl FrameHeader {
    /// Reads a header from the start of `bytes`. Returns the header and its length, or `None` if more bytes
    /// are needed.
    ///
    /// `role` is that of the reader. Refuses everything that RFC 6455 forbids in a single header, and data
    /// frames longer than `limit`.
    pub fn parse(
        bytes: &[u8],
        role: Role,
        limit: usize,
    ) -> Result<Option<(Self, usize)>, FrameError> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(FrameError::ReservedBits(*first));
        }
        let opcode =
            OpCode::from_code(first & 0x0f).ok_or(FrameError::UnknownOpCode(first & 0x0f))?;
        let fin = first & 0x80 != 0;
        let masked = second & 0x80 != 0;
        match role {
            Role::Client if masked => return Err(FrameError::MaskedByServer),
            Role::Server if !masked => return Err(FrameError::UnmaskedByClient),
            _ => {}
        }
        if opcode.is_control() && !fin {
            return Err(FrameError::ControlFragmented);
        }

        let (length, rest) = match second & 0x7f {
            126 => {
                let Some((bytes, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                (u64::from(u16::from_be_bytes(*bytes)), rest)
            }
            127 => {
                let Some((bytes, rest)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                (u64::from_be_bytes(*bytes), rest)
            }
            short => (u64::from(short), rest),
        };
        if opcode.is_control() && length > MAX_CONTROL_PAYLOAD as u64 {
            return Err(FrameError::ControlTooLong(length));
        }
        if length > limit as u64 {
            return Err(FrameError::Oversize { length, limit });
        }
        if second & 0x7f != Self::length_code(length) {
            return Err(FrameError::NonMinimalLength(length));
        }

        let (mask, rest) = if masked {
            let Some((key, rest)) = rest.split_first_chunk() else {
                return Ok(None);
            };
            (Some(*key), rest)
        } else {
            (None, rest)
        };
        let header = Self {
            fin,
            opcode,
            mask,
            length,
        };
        Ok(Some((header, bytes.len() - rest.len())))
    }

    /// The length of the header of a frame with a payload of `length` bytes.
    pub const fn len(length: usize, masked: bool) -> usize {
        let length = match Self::length_code(length as u64) {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if masked { 4 } else { 0 }
    }

    /// Writes the header to the start of `out`, and returns its length in bytes.
    pub fn write(&self, out: &mut [u8; MAX_HEADER]) -> usize {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        out[0] = if self.fin { 0x80 } else { 0 } | self.opcode.code();
        let code = Self::length_code(self.length);
        out[1] = masked | code;
        let mut end = 2;
        let bytes = self.length.to_be_bytes();
        let length: &[u8] = match code {
            126 => &bytes[6..],
            127 => &bytes,
            _ => &[],
        };
        for part in [length, self.mask.as_ref().map_or(&[][..], |key| key)] {
            out[end..end + part.len()].copy_from_slice(part);
            end += part.len();
        }
        end
    }

    /// The seven bits that hold a length or select a longer form.
    const fn length_code(length: u64) -> u8 {
        match length {
            0..=125 => length as u8,
            126..=0xffff => 126,
            _ => 127,
        }
    }
}
