//! Data to send, and reading and writing it.

use std::io::{self, Read, Write};

/// Bytes whose period is not a power of two, so that a comparison finds each lost or repeated
/// piece.
pub fn pattern(length: usize) -> Vec<u8> {
    const PERIOD: usize = 65_521;
    let period: Vec<u8> = (0..PERIOD)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    (0..length).map(|i| period[i % PERIOD]).collect()
}

/// Pseudo-random numbers (a linear congruential generator), the same for the same seed.
pub fn random(seed: u32) -> impl FnMut(u32) -> u32 {
    let mut state = seed;
    move |bound| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % bound
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256(data: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, data);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Reads to the end. Returns the data and how the stream ended.
pub fn read_to_end(mut stream: impl Read) -> (Vec<u8>, io::Result<()>) {
    let mut all = Vec::new();
    let end = stream.read_to_end(&mut all).map(drop);
    (all, end)
}

/// Writes in pieces of various sizes, none of which is a buffer's size.
pub fn write_in_pieces(mut stream: impl Write, data: &[u8]) -> io::Result<()> {
    let mut rest = data;
    for size in [1, 4095, 131_073, 70_000, 3].into_iter().cycle() {
        if rest.is_empty() {
            return Ok(());
        }
        let (piece, after) = rest.split_at(size.min(rest.len()));
        stream.write_all(piece)?;
        rest = after;
    }
    Ok(())
}
