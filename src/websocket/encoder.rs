//! Frames that pveproxy accepts: FIN, at most [`MAX_FRAME`] bytes, masked by a client.

use super::frame::{
    FrameError, FrameHeader, MAX_CONTROL_PAYLOAD, MAX_FRAME, MAX_HEADER, OpCode, Role,
};
use super::mask::mask;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;

/// Masking keys that are requested from the operating system at once. One system call for each key would
/// cost more than masking 4 KiB.
const KEYS: usize = 64;

/// Which masking key a client uses.
///
/// Masking prevents a script in a browser from sending chosen bytes through a proxy that does not
/// understand the protocol (RFC 6455 §10.3). Inside TLS no proxy sees those bytes, and a key of zero
/// saves both ends the XOR. On a clear connection keys are random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Masking {
    /// The key 00000000.
    #[default]
    Zero,
    /// A new key for each frame, from the operating system.
    Random,
}

/// Encodes frames.
#[derive(Debug)]
pub struct Encoder {
    role: Role,
    masking: Masking,
    /// Keys that were not used yet.
    keys: Vec<[u8; 4]>,
}

impl Encoder {
    /// An encoder for one end of a connection. `masking` applies to a client only.
    pub fn new(role: Role, masking: Masking) -> Self {
        let keys = match (role, masking) {
            (Role::Client, Masking::Random) => KEYS,
            _ => 0,
        };
        Self {
            role,
            masking,
            keys: Vec::with_capacity(keys),
        }
    }

    /// The length of the frames that [`encode`](Self::encode) appends for a payload of `length` bytes.
    pub fn encoded_len(&self, length: usize) -> usize {
        let frame = |length| FrameHeader::len(length, self.role == Role::Client) + length;
        let (full, rest) = (length / MAX_FRAME, length % MAX_FRAME);
        let last = if full == 0 || rest > 0 {
            frame(rest)
        } else {
            0
        };
        full * frame(MAX_FRAME) + last
    }

    /// Appends `payload` as frames of kind `opcode` to `out`.
    ///
    /// Data longer than [`MAX_FRAME`] becomes several complete messages: the receiver expects a byte stream
    /// and accepts no fragments. The payload of a control frame has at most 125 bytes.
    pub fn encode(
        &mut self,
        opcode: OpCode,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        if opcode == OpCode::Continuation {
            return Err(FrameError::UnexpectedContinuation);
        }
        if opcode.is_control() && payload.len() > MAX_CONTROL_PAYLOAD {
            return Err(FrameError::ControlTooLong(payload.len() as u64));
        }
        let mut rest = payload;
        loop {
            let (piece, after) = rest.split_at(rest.len().min(MAX_FRAME));
            let mut header = [0; MAX_HEADER];
            let key = self.key()?;
            let length = self.header(opcode, key, piece.len()).write(&mut header);
            out.reserve(length + piece.len());
            out.extend_from_slice(&header[..length]);
            let start = out.len();
            out.extend_from_slice(piece);
            if let Some(key) = key {
                mask(&mut out[start..], key, 0);
            }
            rest = after;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Encodes one binary frame in place: `buffer` holds [`MAX_HEADER`] free bytes and then the payload, of
    /// at most [`MAX_FRAME`] bytes. Returns where in `buffer` the frame begins; it ends at the end of the
    /// buffer.
    pub fn encode_in_place(&mut self, buffer: &mut [u8]) -> Result<usize, FrameError> {
        let Some((room, payload)) = buffer.split_first_chunk_mut::<MAX_HEADER>() else {
            return Err(FrameError::Oversize {
                length: 0,
                limit: MAX_FRAME,
            });
        };
        if payload.len() > MAX_FRAME {
            return Err(FrameError::Oversize {
                length: payload.len() as u64,
                limit: MAX_FRAME,
            });
        }
        let mut header = [0; MAX_HEADER];
        let key = self.key()?;
        let length = self
            .header(OpCode::Binary, key, payload.len())
            .write(&mut header);
        if let Some(key) = key {
            mask(payload, key, 0);
        }
        let start = MAX_HEADER - length;
        room[start..].copy_from_slice(&header[..length]);
        Ok(start)
    }

    fn header(&self, opcode: OpCode, mask: Option<[u8; 4]>, length: usize) -> FrameHeader {
        FrameHeader {
            fin: true,
            opcode,
            mask,
            length: length as u64,
        }
    }

    fn key(&mut self) -> Result<Option<[u8; 4]>, FrameError> {
        match (self.role, self.masking) {
            (Role::Server, _) => Ok(None),
            (Role::Client, Masking::Zero) => Ok(Some([0; 4])),
            (Role::Client, Masking::Random) => self.fresh_key().map(Some),
        }
    }

    fn fresh_key(&mut self) -> Result<[u8; 4], FrameError> {
        if let Some(key) = self.keys.pop() {
            return Ok(key);
        }
        let mut fresh = [[0; 4]; KEYS];
        SystemRandom::new()
            .fill(fresh.as_flattened_mut())
            .map_err(|_| FrameError::NoRandom)?;
        let [key, rest @ ..] = fresh;
        self.keys.extend(rest);
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Encoder, KEYS, Masking, Role};
    use std::collections::HashSet;

    #[test]
    fn keys_are_not_used_twice() {
        let mut encoder = Encoder::new(Role::Client, Masking::Random);
        let count = 4 * KEYS + 1;
        let keys: HashSet<[u8; 4]> = (0..count)
            .map(|_| encoder.key().unwrap().unwrap())
            .collect();
        // Two of 257 random keys of 32 bits are equal with a probability of 8e-6.
        assert!(keys.len() > count - 3, "{} of {count} keys", keys.len());
    }
}
