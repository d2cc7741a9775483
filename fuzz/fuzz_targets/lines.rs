//! The lines of a stream do not depend on how it is cut, and together with the rest are the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::fuzzing::lines;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (step, bytes) = input;
    let whole = lines(std::iter::once(bytes.as_slice()));
    let pieces = lines(bytes.chunks(usize::from(step) + 1));
    assert_eq!(whole, pieces);
    let mut expected: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    expected.pop();
    let found: Vec<&[u8]> = whole.iter().map(|line| line.as_deref().unwrap()).collect();
    assert_eq!(found, expected);
});
