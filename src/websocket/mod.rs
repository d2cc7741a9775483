//! RFC 6455: masking, framing, the client's upgrade.
//!
//! Everything here works on bytes in memory or on any byte stream. Data is a stream: a [`Decoder`] returns
//! payload as it arrives and never waits for the end of a frame. So its memory does not depend on the
//! length that a peer announces.

mod decoder;
mod encoder;
mod frame;
mod mask;
mod upgrade;

pub use decoder::{Decoder, Event};
pub use encoder::{Encoder, Masking};
pub use frame::{
    FrameError, FrameHeader, MAX_CONTROL_PAYLOAD, MAX_FRAME, MAX_HEADER, OpCode, Role,
};
pub use mask::mask;
pub use upgrade::{Request, UpgradeError, Upgraded, upgrade};
