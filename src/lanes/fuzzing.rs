//! A receiver as its fuzz target calls it: from a peer that sends whatever it wants.

use super::{Bytes, Decompressor, Frame, Parsed, Parser, Place, Receiver, Stored, Violation};

/// Receives these pieces, each on a lane of that number, with this window. Returns what the local
/// program has taken, and whether it was sent the end; none if the peer has violated the protocol.
///
/// # Panics
/// More is stored than the window allows.
pub(crate) fn receive(pieces: &[(u8, &[u8])], window: u32) -> Option<(Vec<u8>, bool)> {
    let mut lanes: [Parser; 4] = Default::default();
    let mut receiver = Receiver::<Bytes>::new(window, window);
    let mut taken = Vec::new();
    for (lane, piece) in pieces {
        let mut rest = *piece;
        while let Some(parsed) = lanes[usize::from(lane % 4)].next(&mut rest).ok()? {
            apply(&mut receiver, parsed, &mut taken).ok()?;
            assert!(receiver.stored() <= u64::from(window));
        }
        take(&mut receiver, &mut taken);
        let _ = receiver.acknowledge();
    }
    Some((taken, receiver.is_complete()))
}

fn apply(
    receiver: &mut Receiver<Bytes>,
    parsed: Parsed<'_>,
    taken: &mut Vec<u8>,
) -> Result<(), Violation> {
    match parsed {
        Parsed::Payload { offset, bytes } => {
            match receiver.place(offset, bytes.len() as u64)? {
                Place::Old => {}
                Place::Later => receiver.store(offset, bytes.to_vec().into())?,
                Place::Next { skip } => {
                    let new = &bytes[skip as usize..];
                    taken.extend_from_slice(new);
                    receiver.take(new.len() as u64);
                }
            }
            Ok(())
        }
        Parsed::Compressed { offset, bytes } => {
            let bytes = Decompressor::default().decompress(&bytes)?;
            receiver.store(offset, bytes.into())
        }
        // Memory is not the subject: the zeros of a run are not taken one by one.
        Parsed::Frame(Frame::Zeros { offset, count }) if count < 1 << 16 => {
            receiver.store_zeros(offset, count)
        }
        Parsed::Frame(Frame::End { offset }) => receiver.end(offset),
        Parsed::Frame(_) => Ok(()),
    }
}

fn take(receiver: &mut Receiver<Bytes>, taken: &mut Vec<u8>) {
    while let Some(next) = receiver.next() {
        match next {
            Stored::Data(data) => taken.extend_from_slice(data.as_slice()),
            Stored::Zeros(count) => taken.resize(taken.len() + *count as usize, 0),
        }
        let count = next.len();
        receiver.take(count);
    }
    if receiver.is_at_end() {
        receiver.take_end();
    }
}
