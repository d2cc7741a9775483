//! The frame codec (RFC 6455) for C.

use serde::Deserialize;
use std::ffi::c_char;

use super::error::{Failure, Status};
use super::guard::guard;
use super::handle::Handle;
use super::input::{self, JSON_MAX, Out};
use super::{memory, string};
use crate::websocket::{
    Decoder, Encoder, Event, FrameError, MAX_CONTROL_PAYLOAD, MAX_FRAME, Masking, OpCode, Role,
};

/// Most bytes of one call. An event loop never reads as much from a socket at once, so a larger
/// length is a mistake of the caller.
const CALL_MAX: usize = 16 << 20;

/// The frame codec for one end of a websocket connection, after the upgrade. It decodes received
/// bytes, and encodes payloads as frames. It does no I/O.
pub struct Codec(Handle<Ends>);

struct Ends {
    decoder: Decoder,
    encoder: Encoder,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CodecOptions {
    role: RoleName,
    mask: Masking,
    max_frame: usize,
}

impl Default for CodecOptions {
    fn default() -> Self {
        Self {
            role: RoleName::Client,
            mask: Masking::Random,
            max_frame: MAX_FRAME,
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleName {
    Client,
    Server,
}

/// Creates a codec for one connection.
///
/// `options` is NULL for the defaults, or a JSON object. Each member is optional:
///
///   role       "client" (the default) or "server": the end that uses this codec
///   mask       "random" (the default) or "zero": the masking keys of a client. Use zero only on a
///              connection that TLS protects. A server does not mask
///   max_frame  longest payload of one received frame, in bytes: 125 to 16777216; by default
///              131072, the limit of pveproxy
///
/// `out` gets the codec. Free it with `pve_tunnel_codec_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `options` is not such
/// an object.
///
/// Threads: any. Any thread may use the codec, and simultaneous calls run one after another. After
/// a fork the codec belongs to the process that created it. In any other process every call fails
/// with WRONG_PROCESS.
///
/// # Safety
///
/// `options` is NULL or a C string, `out` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_codec_new(options: *const c_char, out: *mut *mut Codec) -> i32 {
    guard("pve_tunnel_codec_new", || {
        let out = Out::new(out, "out")?;
        // SAFETY: NULL or a C string, as the caller promises.
        let options = match unsafe { input::optional_text(options, "options", JSON_MAX) }? {
            Some(text) => input::json(text, "options")?,
            None => CodecOptions::default(),
        };
        let codec = Box::new(Codec(Handle::new(Ends::new(&options)?)));
        // SAFETY: writable, as the caller promises.
        unsafe { out.write(Box::into_raw(codec)) };
        Ok(())
    })
}

/// Frees a codec.
///
/// NULL is allowed and has no effect. In a process that did not create the codec (after a fork) the
/// function releases nothing and sets the last status to WRONG_PROCESS. Otherwise it does not
/// change the last message and status.
///
/// Threads: any, but not during another call on this codec.
///
/// # Safety
///
/// `codec` is NULL, or an output of `pve_tunnel_codec_new`. It is freed once in the process that
/// created it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_codec_free(codec: *mut Codec) {
    if codec.is_null() {
        return;
    }
    // SAFETY: not freed yet, as the caller promises.
    let foreign = unsafe { &*codec }.0.check_process();
    if foreign.is_err() {
        guard("pve_tunnel_codec_free", || foreign);
        return;
    }
    // SAFETY: created by `Box::into_raw` in this process, and freed once, as the caller promises.
    drop(unsafe { Box::from_raw(codec) });
}

/// Passes received bytes to a codec, which copies them.
///
/// Afterwards call `pve_tunnel_codec_next` until it returns the opcode 0. Bytes that are not
/// decoded stay in memory. `data` may be NULL if `len` is 0.
///
/// Errors: NULL_POINTER; TOO_LONG above 16 MiB in one call; WRONG_PROCESS; OUT_OF_MEMORY, and then
/// the codec has none of the bytes: take what `pve_tunnel_codec_next` returns, and pass them again.
///
/// # Safety
///
/// `codec` is not freed, and `data` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_codec_feed(
    codec: *mut Codec,
    data: *const u8,
    len: usize,
) -> i32 {
    guard("pve_tunnel_codec_feed", || {
        // SAFETY: NULL or not freed, as the caller promises.
        let codec = unsafe { input::handle(codec, "codec") }?;
        // SAFETY: readable for `len` bytes, as the caller promises.
        let data = unsafe { input::bytes(data, len, "data", CALL_MAX) }?;
        codec.0.with(|ends| {
            ends.decoder
                .try_reserve(data.len())
                .map_err(|_| Failure::out_of_memory(data.len()))?;
            ends.decoder.feed(data);
            Ok(())
        })
    })
}

/// Returns the next decoded piece of a message, or a control frame.
///
/// `opcode` gets its type: 0 if more bytes are needed; 1 text; 2 binary; 8 close; 9 ping; 10 pong.
/// `payload` and `len` get the unmasked bytes. Free them with `pve_tunnel_bytes_free`. One NUL byte
/// follows the bytes; `len` does not count it. For the opcode 0, `payload` is NULL and `len` is 0.
///
/// Text and binary messages are returned in pieces as their bytes arrive. Each piece has the opcode
/// of its message. `end` is true for the last piece, which may be empty. The codec does not check
/// that text is UTF-8.
///
/// Control frames are returned whole, possibly between the pieces of a message, and always with
/// `end` true. The payload of a close is empty, or it is a two-byte code in network byte order and
/// a reason in UTF-8. Nothing is returned after a close. The caller answers pings and closes.
///
/// Errors: NULL_POINTER; WRONG_PROCESS; OUT_OF_MEMORY, and then the next call returns the same
/// piece; PROTOCOL if the peer violates RFC 6455 or exceeds the frame limit. After PROTOCOL the rest
/// of the stream cannot be decoded: end the connection and free the codec.
///
/// # Safety
///
/// `codec` is not freed, and the outputs are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_codec_next(
    codec: *mut Codec,
    opcode: *mut i32,
    end: *mut bool,
    payload: *mut *mut u8,
    len: *mut usize,
) -> i32 {
    guard("pve_tunnel_codec_next", || {
        // SAFETY: NULL or not freed, as the caller promises.
        let codec = unsafe { input::handle(codec, "codec") }?;
        let opcode = Out::new(opcode, "opcode")?;
        let end = Out::new(end, "end")?;
        let payload = Out::new(payload, "payload")?;
        let len = Out::new(len, "len")?;
        let piece = codec.0.with(Ends::next_piece)?;
        let (bytes, count) = match piece.payload {
            Some(bytes) => string::bytes_to_c(bytes)?,
            None => (std::ptr::null_mut(), 0),
        };
        // SAFETY: all four writable, as the caller promises.
        unsafe {
            opcode.write(piece.opcode);
            end.write(piece.end);
            payload.write(bytes);
            len.write(count);
        }
        Ok(())
    })
}

/// Encodes a payload as frames.
///
/// `opcode` is 1 text, 2 binary, 8 close, 9 ping or 10 pong. Text and binary payloads of more than
/// 131072 bytes become several frames, each of which is a complete message (FIN), because pveproxy
/// accepts only such frames. The other payloads have at most 125 bytes. A close is empty, or it
/// begins with its code in network byte order. `data` may be NULL if `len` is 0.
///
/// `out` and `out_len` get the bytes to send. Free them with `pve_tunnel_bytes_free`.
///
/// Errors: NULL_POINTER; WRONG_PROCESS; TOO_LONG above 16 MiB in one call, or above 125 bytes in a
/// close, ping or pong; INVALID_ARGUMENT for another opcode; IO if the system returns no random
/// bytes for the mask; OUT_OF_MEMORY.
///
/// # Safety
///
/// `codec` is not freed, `data` is readable for `len` bytes, and the outputs are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_codec_encode(
    codec: *mut Codec,
    opcode: i32,
    data: *const u8,
    len: usize,
    out: *mut *mut u8,
    out_len: *mut usize,
) -> i32 {
    guard("pve_tunnel_codec_encode", || {
        // SAFETY: NULL or not freed, as the caller promises.
        let codec = unsafe { input::handle(codec, "codec") }?;
        let out = Out::new(out, "out")?;
        let out_len = Out::new(out_len, "out_len")?;
        // SAFETY: readable for `len` bytes, as the caller promises.
        let data = unsafe { input::bytes(data, len, "data", CALL_MAX) }?;
        let opcode = opcode_to_send(opcode)?;
        let frames = codec.0.with(|ends| {
            // With space for the NUL that `bytes_to_c` adds.
            let mut frames = Vec::new();
            memory::reserve(&mut frames, ends.encoder.encoded_len(data.len()) + 1)?;
            ends.encoder
                .encode(opcode, data, &mut frames)
                .map_err(|error| cannot_encode(&error))?;
            Ok(frames)
        })?;
        let (bytes, count) = string::bytes_to_c(frames)?;
        // SAFETY: both writable, as the caller promises.
        unsafe {
            out.write(bytes);
            out_len.write(count);
        }
        Ok(())
    })
}

/// What `pve_tunnel_codec_next` returns.
struct Piece {
    opcode: i32,
    end: bool,
    payload: Option<Vec<u8>>,
}

impl Piece {
    const NOTHING: Self = Self {
        opcode: 0,
        end: false,
        payload: None,
    };
}

impl Ends {
    fn new(options: &CodecOptions) -> Result<Self, Failure> {
        if !(MAX_CONTROL_PAYLOAD..=CALL_MAX).contains(&options.max_frame) {
            return Err(Failure::new(
                Status::InvalidArgument,
                format!(
                    "max_frame is {}, expected {MAX_CONTROL_PAYLOAD} to {CALL_MAX}",
                    options.max_frame
                ),
            ));
        }
        let role = match options.role {
            RoleName::Client => Role::Client,
            RoleName::Server => Role::Server,
        };
        Ok(Self {
            decoder: Decoder::new(role, options.max_frame),
            encoder: Encoder::new(role, options.mask),
        })
    }

    fn next_piece(&mut self) -> Result<Piece, Failure> {
        let mut copy = Vec::new();
        // Before the decoder returns the event, because it returns each event once.
        if let Some(length) = self.decoder.next_payload_len() {
            // With space for the NUL that `bytes_to_c` adds.
            memory::reserve(&mut copy, length + 1)?;
        }
        let event = self
            .decoder
            .next_event()
            .map_err(|error: FrameError| Failure::from_error(Status::Protocol, &error))?;
        let (opcode, end) = match event {
            None => return Ok(Piece::NOTHING),
            Some(Event::Data { payload, text, end }) => {
                copy.extend_from_slice(payload);
                (if text { OpCode::Text } else { OpCode::Binary }, end)
            }
            Some(Event::Ping(payload)) => {
                copy.extend_from_slice(payload);
                (OpCode::Ping, true)
            }
            Some(Event::Pong(payload)) => {
                copy.extend_from_slice(payload);
                (OpCode::Pong, true)
            }
            Some(Event::Close { code, reason }) => {
                if let Some(code) = code {
                    copy.extend_from_slice(&code.to_be_bytes());
                    copy.extend_from_slice(reason.as_bytes());
                }
                (OpCode::Close, true)
            }
        };
        Ok(Piece {
            opcode: opcode.code().into(),
            end,
            payload: Some(copy),
        })
    }
}

fn cannot_encode(error: &FrameError) -> Failure {
    let status = match error {
        FrameError::ControlTooLong(_) => Status::TooLong,
        FrameError::NoRandom => Status::Io,
        _ => Status::InvalidArgument,
    };
    Failure::from_error(status, error)
}

fn opcode_to_send(number: i32) -> Result<OpCode, Failure> {
    match number {
        1 => Ok(OpCode::Text),
        2 => Ok(OpCode::Binary),
        8 => Ok(OpCode::Close),
        9 => Ok(OpCode::Ping),
        10 => Ok(OpCode::Pong),
        other => Err(Failure::new(
            Status::InvalidArgument,
            format!(
                "opcode is {other}, expected 1 (text), 2 (binary), 8 (close), 9 (ping) or 10 (pong)"
            ),
        )),
    }
}
