//! Data that has arrived before the local program could take it.

use super::super::local::Readiness;
use super::super::{Local, RelayError};
use super::pool::{Buffers, SharedPipe};
use crate::lanes::{Bytes, Payload};
use std::io::{self, IoSlice, IoSliceMut};

/// Bytes in memory, or in a pipe.
pub(super) enum Arrived {
    Memory(Bytes),
    Pipe(Piped),
}

/// Bytes in a pipe.
pub(super) struct Piped {
    pipe: SharedPipe,
    /// The bytes in the pipe.
    held: usize,
    /// Those at its end that are left to take.
    left: usize,
}

impl Arrived {
    /// Copies bytes: into a pipe if there is one, and then as many as it has room for.
    pub(super) fn copy(
        slices: &[IoSlice<'_>],
        pipe: Option<SharedPipe>,
        mut buffer: Vec<u8>,
    ) -> Self {
        if let Some(pipe) = pipe {
            if let Ok(held @ 1..) = pipe.as_ref().write(slices) {
                let left = held;
                return Self::Pipe(Piped { pipe, held, left });
            }
        }
        for slice in slices {
            buffer.extend_from_slice(slice);
        }
        Self::Memory(buffer.into())
    }

    /// Gives the local program what it takes without waiting, and returns how many bytes. The caller
    /// [`skip`](Payload::skip)s them.
    pub(super) fn write_to(&mut self, local: &Local, readiness: Readiness) -> io::Result<usize> {
        match self {
            Self::Memory(bytes) => local.try_write(&[IoSlice::new(bytes.as_slice())], readiness),
            Self::Pipe(piped) => {
                piped.drop_skipped()?;
                let exit = &piped.pipe.as_ref().exit;
                match local.try_splice_from(exit, piped.left, readiness)? {
                    0 => Err(io::ErrorKind::WriteZero.into()),
                    count => {
                        piped.held -= count;
                        Ok(count)
                    }
                }
            }
        }
    }

    /// Keeps for other data what has held this, which was taken to its end.
    pub(super) fn recycle(self, buffers: &mut Buffers) {
        match self {
            Self::Memory(bytes) => buffers.keep(bytes.into_buffer()),
            Self::Pipe(Piped { pipe, held: 0, .. }) => pipe.keep(),
            // It still holds what was dropped.
            Self::Pipe(_) => {}
        }
    }
}

impl Piped {
    /// Removes from the pipe what is not to be taken from it.
    fn drop_skipped(&mut self) -> io::Result<()> {
        match self.held - self.left {
            0 => Ok(()),
            skipped => self.read(skipped).map(drop),
        }
    }

    fn read(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let read = self.pipe.as_ref().read(&mut [IoSliceMut::new(&mut bytes)]);
        read.map(|()| {
            self.held -= count;
            bytes
        })
    }
}

impl Payload for Arrived {
    type Error = RelayError;

    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::Pipe(piped) => piped.left as u64,
        }
    }

    fn skip(&mut self, count: u64) {
        match self {
            Self::Memory(bytes) => bytes.skip(count),
            Self::Pipe(piped) => piped.left -= count as usize,
        }
    }

    fn take_front(&mut self, count: u64) -> Result<Self, RelayError> {
        match self {
            Self::Memory(bytes) => Ok(Self::Memory(bytes.take_front(count)?)),
            Self::Pipe(piped) if count == piped.held as u64 => {
                Ok(std::mem::replace(self, Self::Memory(Bytes::default())))
            }
            Self::Pipe(piped) => {
                let read = piped
                    .drop_skipped()
                    .and_then(|()| piped.read(count as usize));
                piped.left -= count as usize;
                Ok(Self::Memory(read.map_err(RelayError::Pipe)?.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::pool::Pipes;
    use super::*;
    use std::io::Read;
    use tokio::net::UnixStream;

    const BYTES: &[u8] = b"0123456789";

    fn arrived(pipe: Option<SharedPipe>) -> Arrived {
        let (first, second) = BYTES.split_at(3);
        let slices = [first, second].map(IoSlice::new);
        Arrived::copy(&slices, pipe, Vec::new())
    }

    /// What the local program gets.
    fn read(mut data: Arrived) -> Vec<u8> {
        let (mut program, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let local = Local::new(UnixStream::from_std(ours).unwrap());
        let count = data.write_to(&local, Readiness::Asked).unwrap();
        assert_eq!(count as u64, data.len());
        data.skip(count as u64);
        data.recycle(&mut Buffers::default());
        let mut bytes = vec![0; count];
        program.read_exact(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn it_is_taken_from_the_front_in_memory_and_in_a_pipe() {
        for pipe in [false, true] {
            let mut data = arrived(pipe.then(|| Pipes::default().take().unwrap()));
            data.skip(2);
            let front = data.take_front(3).unwrap();
            data.skip(1);
            assert_eq!((front.len(), data.len()), (3, 4), "{pipe}");
            let whole = data.take_front(4).unwrap();
            assert_eq!(
                (read(front), read(whole)),
                (b"234".to_vec(), b"6789".to_vec())
            );
            assert_eq!(data.len(), 0);
        }
    }

    #[test]
    fn only_an_empty_pipe_is_used_again() {
        let pipes = Pipes::default();
        for (skipped, free) in [(false, 1), (true, 0)] {
            let mut data = arrived(pipes.take());
            let count = data.len();
            match skipped {
                true => data.skip(count),
                false => {
                    let Arrived::Pipe(piped) = &mut data else {
                        unreachable!()
                    };
                    piped.read(count as usize).unwrap();
                    piped.left = 0;
                }
            }
            data.recycle(&mut Buffers::default());
            assert_eq!((pipes.free(), pipes.used()), (free, 0));
        }
    }

    #[tokio::test]
    async fn what_a_pipe_has_no_room_for_is_left() {
        let bytes = vec![1; 1 << 20];
        let pipe = Pipes::default().take();
        let data = Arrived::copy(&[IoSlice::new(&bytes)], pipe, Vec::new());
        assert!(data.len() > 0 && data.len() < 1 << 20, "{}", data.len());
    }
}
