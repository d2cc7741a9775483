//! What arrives on the lanes, on its way to the local socket.

use super::super::local::Readiness;
use super::super::pipe::SMALL;
use super::super::{RelayError, is_refusal};
use super::arrived::Arrived;
use super::lane::OpenLane;
use super::run::Run;
use super::{State, Stream, ZEROS};
use crate::lanes::{Payload, Place, Stored};
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;

/// How data was delivered.
pub(super) enum Delivered {
    /// All of it was taken or stored.
    Whole,
    /// The local program has to read first.
    Blocked,
}

impl Stream {
    /// Writes what is stored while the local program did not read. Lanes write everything else.
    pub(super) async fn write_stored(&self) -> Infallible {
        loop {
            let blocked = {
                let state = &mut *self.state();
                let blocked = self.flush(state, Readiness::Registered);
                if state.receiver.acknowledgement_due() {
                    self.work.notify_one();
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
    fn flush(&self, state: &mut State, readiness: Readiness) -> bool {
        while !state.has_failed() {
            if state.dropping {
                let Some(length) = state.receiver.next().map(Stored::len) else {
                    break;
                };
                self.refused_again(state);
                self.took(state, length);
                continue;
            }
            let written = match state.receiver.next_mut() {
                Some(Stored::Data(data)) => {
                    let write = || data.write_to(&self.local, readiness);
                    self.preemption.observe(write)
                }
                Some(Stored::Zeros(count)) => {
                    let count = (*count).min(ZEROS.len() as u64) as usize;
                    let zeros = [IoSlice::new(&ZEROS[..count])];
                    self.local.try_write(&zeros, readiness)
                }
                None => break,
            };
            match written {
                Ok(count) => self.took(state, count as u64),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) => self.refused(state, error),
            }
        }
        if state.receiver.is_at_end() {
            if state.dropping {
                self.refused_again(state);
            }
            if !state.has_failed() {
                self.local.finish();
                state.receiver.take_end();
                self.changed.notify_waiters();
            }
        }
        false
    }

    /// The local program has taken data, or it was dropped for it.
    fn took(&self, state: &mut State, count: u64) {
        state.progressed();
        if !state.dropping {
            self.counters.received.fetch_add(count, Ordering::Relaxed);
        }
        if let Some(data) = state.receiver.take(count) {
            data.recycle(&mut state.buffers);
        }
    }

    /// Judges a write that the local program refused. The stream continues without the program's reading
    /// side, or fails.
    fn refused(&self, state: &mut State, error: io::Error) {
        let judged = match is_refusal(&error) {
            true => self.progress.refused(&self.local),
            false => Err(RelayError::Local(error)),
        };
        match judged {
            Ok(()) => state.dropping = true,
            Err(error) => self.failed(state, error),
        }
    }

    /// Something is dropped for a local program that does not read any more, or is gone: when it refused
    /// the first piece, the kernel may not have known that yet.
    fn refused_again(&self, state: &mut State) {
        if let Err(error) = self.progress.refused(&self.local) {
            self.failed(state, error);
        }
    }

    /// The local program has failed. Lanes continue: its earlier data is still sent.
    fn failed(&self, state: &mut State, error: RelayError) {
        state.fail(error);
        self.changed.notify_waiters();
    }

    /// Delivers data that a lane has received, without waiting. What is not next is stored, and with
    /// `store` what the local program does not take at once, too.
    ///
    /// Where threads of several lanes lose their cores, most data is stored: in a pipe, out of which it is
    /// moved into the local socket without a copy. Only that is done with the lock.
    pub(super) fn deliver(
        &self,
        lane: &OpenLane<'_>,
        run: &mut Run<'_>,
        store: bool,
    ) -> Result<Delivered, RelayError> {
        let mut copied: Option<Arrived> = None;
        let mut guard = loop {
            let mut guard = self.state();
            let state = &mut *guard;
            if state.has_failed() {
                return Ok(Delivered::Whole);
            }
            if let Some(data) = copied.take() {
                let count = data.len();
                state.receiver.store(run.offset, data)?;
                run.advance(count as usize);
            }
            if run.is_empty() {
                break guard;
            }
            let is_moved = state.is_shared() && run.bytes > SMALL as u64 && self.uses_pipes();
            match state.receiver.place(run.offset, run.bytes)? {
                Place::Old => break guard,
                Place::Next { .. } if state.dropping => {
                    self.refused_again(state);
                    self.drop_next(state, run);
                    break guard;
                }
                Place::Next { skip } if !is_moved => {
                    run.advance(skip as usize);
                    let readiness = state.readiness();
                    let write = || self.local.try_write(run.slices(), readiness);
                    match self.preemption.observe(write) {
                        Ok(count) => {
                            self.took(state, count as u64);
                            run.advance(count);
                            continue;
                        }
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                            self.refused(state, error);
                            continue;
                        }
                        Err(_) if store => {}
                        Err(_) => return Ok(Delivered::Blocked),
                    }
                }
                Place::Next { .. } | Place::Later => {}
            }
            // Copied without the lock, so that other lanes continue.
            let pipe = is_moved.then(|| self.pipes.take()).flatten();
            let buffer = match pipe {
                Some(_) => Vec::new(),
                None => state.buffers.take(run.bytes as usize),
            };
            drop(guard);
            copied = Some(Arrived::copy(run.slices(), pipe, buffer));
        };
        self.deliver_stored(&mut guard, lane);
        Ok(Delivered::Whole)
    }

    /// Writes what may be next now.
    pub(super) fn deliver_stored(&self, state: &mut State, lane: &OpenLane<'_>) {
        if state.receiver.has_next() && self.flush(state, state.readiness()) {
            self.stored.notify_one();
        }
        if state.receiver.acknowledgement_due() {
            self.wake_sender(lane);
        }
    }

    fn drop_next(&self, state: &mut State, run: &Run<'_>) {
        let next = run.offset + run.bytes;
        let new = next.saturating_sub(state.receiver.taken());
        self.took(state, new);
    }
}
