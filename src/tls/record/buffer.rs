//! Received bytes, and where the next record is.

use super::{CONTENT, FULL, HEADER, Header, RECORDS};
use rustls::Error;
use std::ops::Range;

/// The largest size, in bytes. While a connection delivers full records without pause, each read ends
/// at the end of a record, and nothing has to be moved.
const MAX: usize = RECORDS * FULL;

/// The first size, in bytes: enough for small messages.
const FIRST: usize = 4 << 10;

// The longest record fits.
const _: () = assert!(HEADER + CONTENT <= MAX);

/// An incomplete record is moved to the front of the buffer if that makes this many times as much
/// space for the next read. Otherwise the move would cost more than an additional read.
const WORTHWHILE: usize = 16;

/// A buffer that grows after each read that has filled it, so that unfinished handshakes, the heartbeat
/// and idle connections stay small.
pub(super) struct ReceiveBuffer {
    bytes: Vec<u8>,
    /// The bytes that were read and not yet taken as a record.
    start: usize,
    end: usize,
    /// Whether the last read filled at least half of the buffer, up to its end.
    filled: bool,
}

impl ReceiveBuffer {
    /// With the bytes that were received after the last message of the handshake.
    pub(super) fn new(received: Vec<u8>) -> Self {
        Self {
            start: 0,
            end: received.len(),
            bytes: received,
            filled: false,
        }
    }

    /// The place of the next record, if it is complete.
    pub(super) fn next_record(&mut self) -> Result<Option<Range<usize>>, Error> {
        let Some(length) = self.expected()? else {
            return Ok(None);
        };
        if self.end - self.start < length {
            return Ok(None);
        }
        let record = self.start..self.start + length;
        self.start = record.end;
        Ok(Some(record))
    }

    /// What places refer to.
    pub(super) fn whole(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn get(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    pub(super) fn get_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.bytes[range]
    }

    /// Space for the next read, at least as much as the incomplete record needs. All places that
    /// [`next_record`](Self::next_record) returned are free again.
    pub(super) fn space(&mut self) -> Result<&mut [u8], Error> {
        let needed = self.expected()?.unwrap_or(HEADER);
        let waiting = self.end - self.start;
        let mut size = self.bytes.len().max(FIRST).max(needed);
        if self.filled {
            size = size.max(2 * self.bytes.len()).min(MAX);
        }
        if size > self.bytes.len() {
            let mut larger = vec![0; size];
            larger[..waiting].copy_from_slice(&self.bytes[self.start..self.end]);
            self.bytes = larger;
            (self.start, self.end) = (0, waiting);
        } else if self.start + needed > size || waiting * WORTHWHILE <= self.start {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, waiting);
        }
        Ok(&mut self.bytes[self.end..])
    }

    /// Counts bytes that were read into the space.
    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
        self.filled = self.end == self.bytes.len() && 2 * count >= self.bytes.len();
    }

    /// The length of the next record with its header. None before the header is complete.
    fn expected(&self) -> Result<Option<usize>, Error> {
        let header = Header::parse(&self.bytes[self.start..self.end])?;
        Ok(header.map(|header| HEADER + header.content))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(content: usize) -> Vec<u8> {
        let mut record = vec![23, 3, 3, (content >> 8) as u8, content as u8];
        record.extend((0..content).map(|at| (at % 251) as u8));
        record
    }

    /// Reads a stream in steps of at most `most` bytes. Returns the records' lengths and the size of
    /// the buffer.
    fn read(stream: &[u8], most: usize) -> (Vec<usize>, usize) {
        let mut buffer = ReceiveBuffer::new(Vec::new());
        let (mut rest, mut lengths) = (stream, Vec::new());
        loop {
            while let Some(found) = buffer.next_record().unwrap() {
                let found = buffer.get(found);
                assert_eq!(found, record(found.len() - HEADER));
                lengths.push(found.len() - HEADER);
            }
            if rest.is_empty() {
                assert_eq!(buffer.start, buffer.end);
                return (lengths, buffer.bytes.len());
            }
            let space = buffer.space().unwrap();
            let count = space.len().min(most).min(rest.len());
            assert!(count > 0);
            space[..count].copy_from_slice(&rest[..count]);
            buffer.filled(count);
            rest = &rest[count..];
        }
    }

    #[test]
    fn records_are_found_whatever_the_sizes_of_reads_are() {
        let lengths: Vec<usize> = [0, 1, 17, 3000, CONTENT - 1, 5, FULL - HEADER]
            .into_iter()
            .cycle()
            .take(60)
            .collect();
        let stream: Vec<u8> = lengths.iter().copied().flat_map(record).collect();
        for most in [1, 2, 7, 1000, 4096, 16_406, 65_536, usize::MAX] {
            assert_eq!(read(&stream, most).0, lengths, "{most}");
        }
    }

    #[test]
    fn the_buffer_grows_with_the_traffic_up_to_its_limit() {
        let small: Vec<u8> = (0..100).flat_map(|_| record(100)).collect();
        assert_eq!(read(&small, 105).1, FIRST);
        let large: Vec<u8> = (0..100).flat_map(|_| record(FULL - HEADER)).collect();
        assert_eq!(read(&large, usize::MAX).1, MAX);
        // Full records that arrive slowly, as packets of 1448 bytes.
        assert!(read(&large, 1448).1 < 2 * FULL);
    }

    #[test]
    fn full_records_that_arrive_without_pause_are_not_moved() {
        let mut buffer = ReceiveBuffer::new(Vec::new());
        let stream: Vec<u8> = (0..100).flat_map(|_| record(FULL - HEADER)).collect();
        let (mut rest, mut moved) = (&stream[..], 0);
        while !rest.is_empty() {
            while buffer.next_record().unwrap().is_some() {}
            let before = buffer.start;
            let space = buffer.space().unwrap();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            if buffer.start < before {
                moved += buffer.end - buffer.start;
            }
            buffer.filled(count);
        }
        // Only while the buffer grows.
        assert!(moved <= MAX, "{moved}");
    }

    #[test]
    fn a_record_that_is_too_long_is_an_error() {
        let mut buffer = ReceiveBuffer::new(vec![23, 3, 3, 0xff, 0xff, 0]);
        buffer.next_record().unwrap_err();
        assert!(buffer.space().is_err());
    }
}
