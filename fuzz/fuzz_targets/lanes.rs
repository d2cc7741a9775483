//! Whatever the lanes of a stream deliver, in any order: the local program takes no byte that was not
//! sent, and no more is stored than the window allows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::fuzzing::receive_lanes;

type Input = (Vec<(u8, Vec<u8>)>, u16);

fuzz_target!(|input: Input| {
    let (pieces, window) = &input;
    let pieces: Vec<(u8, &[u8])> = pieces
        .iter()
        .map(|(lane, piece)| (*lane, piece.as_slice()))
        .collect();
    let sent = pieces.iter().flat_map(|(_, piece)| piece.iter().copied());
    let mut counts = [0_usize; 256];
    sent.for_each(|byte| counts[usize::from(byte)] += 1);
    if let Some((taken, _)) = receive_lanes(&pieces, u32::from(*window)) {
        for byte in taken {
            // Zeros may be sent as their number.
            assert!(byte == 0 || counts[usize::from(byte)] > 0);
            counts[usize::from(byte)] = counts[usize::from(byte)].saturating_sub(1);
        }
    }
});
