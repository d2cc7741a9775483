//! Private parts of the library as the fuzz targets call them. Compiled only with `--cfg fuzzing`,
//! which cargo-fuzz sets.

use crate::connector;
use crate::direct::handshake::Purpose;
use crate::direct::{SessionKey, handshake};
use crate::lanes;
use crate::process::{Line, Lines};
use crate::tls;
use tokio::io::{AsyncRead, AsyncWrite};

/// Whether a line on the connector's standard input is accepted.
pub fn connector_accepts(line: &[u8]) -> bool {
    connector::fuzzing_accepts(line)
}

/// The lines of a stream that arrives in pieces; none stands for a line above the limit.
pub fn lines<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Option<Vec<u8>>> {
    let mut lines = Lines::default();
    let mut found = Vec::new();
    for piece in pieces {
        lines.push(piece);
        while let Some(line) = lines.next() {
            found.push(match line {
                Line::Whole(line) => Some(line),
                Line::TooLong => None,
            });
        }
    }
    found
}

/// The listener's half of a handshake in a protocol: the forward number if the proof is right.
pub async fn challenge<S>(stream: &mut S, key: &SessionKey, protocol: u16) -> Option<u32>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let purpose = handshake::challenge(stream, key, protocol).await.ok()?;
    Some(purpose.number)
}

/// The source's half of a handshake: whether the listener answered that it is connected.
pub async fn respond<S>(stream: &mut S, key: &SessionKey) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let purpose = Purpose {
        number: 1,
        lane: None,
    };
    handshake::respond(stream, key, purpose, 1).await.is_ok()
}

/// What a stream receives of these pieces of its lanes, and whether it was complete: see
/// `lanes::fuzzing`.
pub fn receive_lanes(pieces: &[(u8, &[u8])], window: u32) -> Option<(Vec<u8>, bool)> {
    lanes::fuzzing_receive(pieces, window)
}

/// What a TLS connection receives of these records, and whether its end was announced: see
/// `tls::record::fuzzing`.
pub async fn receive_records(
    suite: usize,
    records: &[Option<(u8, &[u8])>],
    rest: &[u8],
    step: usize,
) -> (Vec<u8>, bool) {
    let receive = tls::fuzzing_receive(suite, records, rest, step);
    receive.await.unwrap_or_default()
}
