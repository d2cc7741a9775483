//! The frame codec (RFC 6455) for C.

use serde::Deserialize;
use std::ffi::c_char;

use super::error::{Failure, Status};
use super::guard::guard;
use super::handle::Handle;
use super::input::{self, JSON_MAX, Out};
use super::string;
use crate::websocket::{
    Decoder, Encoder, Event, FrameError, MAX_CONTROL_PAYLOAD, MAX_FRAME, MAX_HEADER, Masking,
    OpCode, Role,
};

/// Most bytes one call takes: an event loop has read that much at once from no socket, and a wrong
/// length is caught early.
const CALL_MAX: usize = 16 << 20;

/// One end of a websocket connection after its upgrade: takes wire bytes apart into frames, and
/// makes frames. Does no I/O.
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

/// Makes a codec for one connection.
///
/// `options` is NULL for the defaults, or a JSON object whose members are all optional:
///
///   role       "client" (the default) or "server": which end this is
///   mask       "random" (the default) or "zero": how a client masks; zero only where TLS protects the wire. A server
///              does not mask
///   max_frame  longest payload taken from the peer in one frame, in bytes: 125 to 16777216, by default 131072 as pveproxy
///
/// `out` gets the codec, to be freed with `pve_tunnel_codec_free`.
///
/// Errors: NULL_POINTER; NOT_UTF8; TOO_LONG above 1 MiB; INVALID_ARGUMENT if `options` is no such
/// object.
///
/// Threads: any. A codec may be used by any thread; calls from several take turns. After a fork it
/// belongs to the process that made it: in the other one every call gives WRONG_PROCESS.
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
/// NULL is allowed and does nothing. In a process that did not make the codec (after a fork)
/// nothing is released, and `pve_tunnel_last_status` says WRONG_PROCESS; otherwise the last message
/// and status stay as they are.
///
/// Threads: any, but no other call on this codec may be under way.
///
/// # Safety
///
/// `codec` is NULL or came from `pve_tunnel_codec_new`, and is freed once in the process that made
/// it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_codec_free(codec: *mut Codec) {
    if codec.is_null() {
        return;
    }
    // SAFETY: alive until here, as the caller promises.
    let foreign = unsafe { &*codec }.0.check_process();
    if foreign.is_err() {
        guard("pve_tunnel_codec_free", || foreign);
        return;
    }
    // SAFETY: made by `Box::into_raw` in this process, and freed once, as the caller promises.
    drop(unsafe { Box::from_raw(codec) });
}

/// Gives bytes from the wire to a codec, which copies what it needs.
///
/// Then call `pve_tunnel_codec_next` until it has nothing more: what is not taken out piles up in
/// memory. `data` may be NULL if `len` is 0.
///
/// Errors: NULL_POINTER; TOO_LONG above 16 MiB a call; WRONG_PROCESS.
///
/// # Safety
///
/// `codec` is alive, `data` is readable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_codec_feed(
    codec: *mut Codec,
    data: *const u8,
    len: usize,
) -> i32 {
    guard("pve_tunnel_codec_feed", || {
        // SAFETY: NULL or alive, as the caller promises.
        let codec = unsafe { input::handle(codec, "codec") }?;
        // SAFETY: readable for `len` bytes, as the caller promises.
        let data = unsafe { input::bytes(data, len, "data", CALL_MAX) }?;
        codec.0.with(|ends| {
            ends.decoder.feed(data);
            Ok(())
        })
    })
}

/// Takes the next piece out of what was fed.
///
/// `opcode` gets what it is: 0 nothing yet, feed more; 1 text; 2 binary; 8 close; 9 ping; 10 pong.
/// `payload` and `len` get the unmasked bytes, to be freed with `pve_tunnel_bytes_free`; one NUL
/// byte follows them that `len` does not count. For 0, `payload` is NULL and `len` 0.
///
/// Text and binary come piece by piece as their bytes arrive, each with the opcode of its message;
/// `end` is true on the message's last piece, which may be empty. What is text is not checked to be
/// UTF-8. Control frames come whole, may come between pieces, and always have `end` true. The
/// payload of a close is empty, or a two-byte code in network byte order and a reason in UTF-8;
/// nothing comes after a close. Answering pings and closes is the caller's.
///
/// Errors: NULL_POINTER; WRONG_PROCESS; PROTOCOL if the peer broke RFC 6455 or the frame limit.
/// After PROTOCOL the stream cannot be understood any more: end the connection and free the codec.
///
/// # Safety
///
/// `codec` is alive, the outputs are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pve_tunnel_codec_next(
    codec: *mut Codec,
    opcode: *mut i32,
    end: *mut bool,
    payload: *mut *mut u8,
    len: *mut usize,
) -> i32 {
    guard("pve_tunnel_codec_next", || {
        // SAFETY: NULL or alive, as the caller promises.
        let codec = unsafe { input::handle(codec, "codec") }?;
        let opcode = Out::new(opcode, "opcode")?;
        let end = Out::new(end, "end")?;
        let payload = Out::new(payload, "payload")?;
        let len = Out::new(len, "len")?;
        let piece = codec.0.with(Ends::next_piece)?;
        let (bytes, count) = match piece.payload {
            Some(bytes) => string::bytes_to_c(bytes),
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

/// Makes the wire bytes that carry a payload.
///
/// `opcode` is 1 text, 2 binary, 8 close, 9 ping or 10 pong. Text and binary longer than 131072
/// bytes become several frames, each a whole message (FIN), because that is all pveproxy takes. The
/// others have at most 125 bytes; a close is empty or begins with its code in network byte order.
/// `data` may be NULL if `len` is 0.
///
/// `out` and `out_len` get the bytes to send, to be freed with `pve_tunnel_bytes_free`.
///
/// Errors: NULL_POINTER; WRONG_PROCESS; TOO_LONG above 16 MiB a call or 125 bytes in a close, ping
/// or pong; INVALID_ARGUMENT for another opcode; IO if the system gives no random bytes for the
/// mask.
///
/// # Safety
///
/// `codec` is alive, `data` is readable for `len` bytes, the outputs are writable.
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
        // SAFETY: NULL or alive, as the caller promises.
        let codec = unsafe { input::handle(codec, "codec") }?;
        let out = Out::new(out, "out")?;
        let out_len = Out::new(out_len, "out_len")?;
        // SAFETY: readable for `len` bytes, as the caller promises.
        let data = unsafe { input::bytes(data, len, "data", CALL_MAX) }?;
        let opcode = opcode_to_send(opcode)?;
        let wire = codec.0.with(|ends| {
            // Room for the payload, the header of each 128 KiB of it, and the NUL behind it: one
            // allocation.
            let mut wire =
                Vec::with_capacity(data.len() + MAX_HEADER * (data.len() / MAX_FRAME + 1) + 1);
            ends.encoder
                .encode(opcode, data, &mut wire)
                .map_err(|error| cannot_encode(&error))?;
            Ok(wire)
        })?;
        let (bytes, count) = string::bytes_to_c(wire);
        // SAFETY: both writable, as the caller promises.
        unsafe {
            out.write(bytes);
            out_len.write(count);
        }
        Ok(())
    })
}

/// What `pve_tunnel_codec_next` reports.
struct Piece {
    opcode: i32,
    end: bool,
    payload: Option<Vec<u8>>,
}

impl Piece {
    fn new(opcode: OpCode, end: bool, payload: &[u8]) -> Self {
        // With room for the NUL that `bytes_to_c` puts behind it.
        let mut copy = Vec::with_capacity(payload.len() + 1);
        copy.extend_from_slice(payload);
        Self {
            opcode: opcode.code().into(),
            end,
            payload: Some(copy),
        }
    }

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
                    "max_frame is {}, not {MAX_CONTROL_PAYLOAD} to {CALL_MAX}",
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
        let event = self
            .decoder
            .next_event()
            .map_err(|error: FrameError| Failure::from_room(Status::Protocol, &error))?;
        Ok(match event {
            None => Piece::NOTHING,
            Some(Event::Data { payload, text, end }) => {
                let opcode = if text { OpCode::Text } else { OpCode::Binary };
                Piece::new(opcode, end, payload)
            }
            Some(Event::Ping(payload)) => Piece::new(OpCode::Ping, true, payload),
            Some(Event::Pong(payload)) => Piece::new(OpCode::Pong, true, payload),
            Some(Event::Close { code, reason }) => {
                let mut payload = Vec::new();
                if let Some(code) = code {
                    payload.extend_from_slice(&code.to_be_bytes());
                    payload.extend_from_slice(reason.as_bytes());
                }
                Piece::new(OpCode::Close, true, &payload)
            }
        })
    }
}

fn cannot_encode(error: &FrameError) -> Failure {
    let status = match error {
        FrameError::ControlTooLong(_) => Status::TooLong,
        FrameError::NoRandom => Status::Io,
        _ => Status::InvalidArgument,
    };
    Failure::from_room(status, error)
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
            format!("opcode {other} is not 1 text, 2 binary, 8 close, 9 ping or 10 pong"),
        )),
    }
}
