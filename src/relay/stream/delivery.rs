//! What arrives on the lanes, on its way to the local socket.

use super::super::{RelayError, is_refusal};
use super::{State, Stream};
use crate::lanes::{Place, Stored};
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;

/// Slices of data that are delivered at once: the records of a buffer, and what a header divides.
pub(super) const MAX_SLICES: usize = 16;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// How data was delivered.
pub(super) enum Delivered {
    /// All of it was taken or stored.
    Whole,
    /// The local program has to read first.
    Blocked,
}

impl Stream {
    /// Writes stored data to the local socket until the end of the stream. Returns whether the stream
    /// has failed.
    pub(super) async fn write_stored(&self) -> bool {
        loop {
            let blocked = {
                let mut state = self.state();
                if state.failure.is_some() {
                    return true;
                }
                let blocked = self.flush(&mut state);
                if state.failure.is_some() {
                    return true;
                }
                if state.receiver.is_complete() {
                    return false;
                }
                blocked
            };
            match blocked {
                // An error shows with the next write.
                true => drop(self.local.writable().await),
                false => self.stored.notified().await,
            }
        }
    }

    /// Writes what is stored and next, without waiting. Returns whether the local program has to read
    /// first.
    fn flush(&self, state: &mut State) -> bool {
        loop {
            let written = match state.receiver.next() {
                Some(_) if state.dropping => Ok(usize::MAX),
                Some(Stored::Bytes { bytes, taken }) => {
                    self.local.try_write(&[IoSlice::new(&bytes[*taken..])])
                }
                Some(Stored::Zeros(count)) => {
                    let count = (*count).min(ZEROS.len() as u64) as usize;
                    self.local.try_write(&[IoSlice::new(&ZEROS[..count])])
                }
                None => break,
            };
            match written {
                Ok(count) => {
                    let length = state.receiver.next().map_or(0, Stored::len);
                    self.took(state, (count as u64).min(length));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => {
                    if !self.refused(state, error) {
                        return false;
                    }
                }
            }
        }
        if state.receiver.is_at_end() {
            self.local.finish();
            state.receiver.take_end();
            self.work.notify_one();
            self.changed.notify_waiters();
        }
        false
    }

    /// The local program has taken data, or it was dropped for it.
    fn took(&self, state: &mut State, count: u64) {
        state.failing_since = None;
        if !state.dropping {
            self.counters.received.fetch_add(count, Ordering::Relaxed);
        }
        if let Some(buffer) = state.receiver.take(count) {
            state.keep(buffer);
        }
        if state.receiver.acknowledgement_due() {
            self.work.notify_one();
        }
    }

    /// Judges a write that the local program refused. Returns whether the stream continues without the
    /// program's reading side.
    fn refused(&self, state: &mut State, error: io::Error) -> bool {
        let judged = match is_refusal(&error) {
            true => self.progress.refused(&self.local),
            false => Err(RelayError::Local(error)),
        };
        match judged {
            Ok(()) => state.dropping = true,
            Err(error) => self.failed(state, error),
        }
        state.failure.is_none()
    }

    /// The local program has failed. Lanes continue: its earlier data is still sent.
    fn failed(&self, state: &mut State, error: RelayError) {
        state.fail(error);
        self.changed.notify_waiters();
    }

    /// Delivers data that follow each other, without waiting.
    pub(super) fn deliver(
        &self,
        offset: u64,
        slices: &[IoSlice<'_>],
        store: bool,
    ) -> Result<Delivered, RelayError> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut state = self.state();
        let state = &mut *state;
        let mut written = 0;
        loop {
            if state.has_failed() {
                return Ok(Delivered::Whole);
            }
            let left = (length - written) as u64;
            let place = state.receiver.place(offset + written as u64, left);
            match place.map_err(|violation| RelayError::Protocol(violation.to_string()))? {
                Place::Old => break,
                Place::Later => {
                    self.store(state, offset, slices, written)?;
                    break;
                }
                Place::Next { skip } => {
                    written += skip as usize;
                    if state.dropping {
                        match self.progress.refused(&self.local) {
                            Ok(()) => self.took(state, (length - written) as u64),
                            Err(error) => self.failed(state, error),
                        }
                        break;
                    }
                    let mut rest = [IoSlice::new(&[]); MAX_SLICES];
                    let count = after(slices, written, &mut rest);
                    match self.local.try_write(&rest[..count]) {
                        Ok(count) => {
                            self.took(state, count as u64);
                            written += count;
                            if written == length {
                                break;
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock && store => {
                            self.store(state, offset, slices, written)?;
                            break;
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            return Ok(Delivered::Blocked);
                        }
                        Err(error) => {
                            if !self.refused(state, error) {
                                break;
                            }
                        }
                    }
                }
            }
        }
        // What was stored earlier may be next now.
        if state.receiver.next().is_some() || state.receiver.is_at_end() {
            self.stored.notify_one();
        }
        Ok(Delivered::Whole)
    }

    fn store(
        &self,
        state: &mut State,
        offset: u64,
        slices: &[IoSlice<'_>],
        skip: usize,
    ) -> Result<(), RelayError> {
        let mut at = 0;
        for slice in slices {
            let from = skip.saturating_sub(at).min(slice.len());
            if from < slice.len() {
                state
                    .receiver
                    .store(offset + (at + from) as u64, &slice[from..])
                    .map_err(|violation| RelayError::Protocol(violation.to_string()))?;
            }
            at += slice.len();
        }
        Ok(())
    }
}

/// The slices of what follows the first `skip` bytes, and how many they are.
fn after<'a>(slices: &[IoSlice<'a>], mut skip: usize, rest: &mut [IoSlice<'a>]) -> usize {
    let mut count = 0;
    for slice in slices {
        let from = skip.min(slice.len());
        skip -= from;
        if from < slice.len() {
            let mut part = *slice;
            part.advance(from);
            rest[count] = part;
            count += 1;
        }
    }
    count
}
