//! Allocations whose size depends on the input.
//!
//! Rust's collections end the process with SIGABRT if an allocation fails. The process belongs to the
//! caller, so these functions return [`Status::OutOfMemory`](super::error::Status::OutOfMemory).

use std::hint::black_box;
use std::io;

use super::error::Failure;

/// Most bytes that reading a text allocates at the same time, for each byte of the text. JSON objects
/// inside each other need most: 124 bytes. `tests/out_of_memory.rs` measures it.
const FOR_EACH_BYTE: usize = 160;

/// Bytes that a function with a text allocates besides, for the answer and for messages.
const FOR_EACH_CALL: usize = 256 << 10;

/// Fails if there is not enough memory to read texts of `length` bytes in total.
///
/// The parsers make many small allocations, which cannot report a failure. This function therefore
/// allocates the sum of them first, and frees it. Another thread can take that memory before the
/// parsers use it. Then the process still ends.
pub(super) fn check_available(length: usize) -> Result<(), Failure> {
    let mut sum = Vec::new();
    reserve(
        &mut sum,
        FOR_EACH_CALL.saturating_add(length.saturating_mul(FOR_EACH_BYTE)),
    )?;
    // Without this the compiler may remove the unused allocation, and its failure with it.
    black_box(sum.as_mut_ptr());
    Ok(())
}

/// Reserves space for exactly `additional` bytes.
pub(super) fn reserve(bytes: &mut Vec<u8>, additional: usize) -> Result<(), Failure> {
    bytes
        .try_reserve_exact(additional)
        .map_err(|_| Failure::out_of_memory(additional))
}

/// A growing output, whose failed allocation is an error of `io`.
#[derive(Default)]
pub(super) struct Output(pub(super) Vec<u8>);

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_reserve(bytes.len())?;
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
