//! Pipes: memory of the kernel, into and out of which it moves pages of a local socket without a copy.

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl};
use nix::sys::uio::{readv, writev};
use nix::unistd::pipe2;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;

/// Flags of all splices: without waiting, and moving pages instead of copying them where possible.
pub(super) const FLAGS: SpliceFFlags =
    SpliceFFlags::SPLICE_F_NONBLOCK.union(SpliceFFlags::SPLICE_F_MOVE);

/// Largest piece that is copied, in bytes. A copy of that size costs less than a splice, and a small
/// request is sent in one piece.
pub(super) const SMALL: usize = 16 << 10;

/// A pipe whose ends do not block.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) entry: OwnedFd,
    pub(super) exit: OwnedFd,
}

impl Pipe {
    /// A pipe for so many bytes, or for fewer: all pipes of a user other than root share a limit.
    pub(super) fn new(size: usize) -> io::Result<Self> {
        let (exit, entry) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // If it fails, the pipe keeps its default size.
        let _ = fcntl(&entry, FcntlArg::F_SETPIPE_SZ(size as i32));
        Ok(Self { entry, exit })
    }

    /// Copies bytes into it, as many as it has room for, and returns how many.
    pub(super) fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(writev(&self.entry, slices)?)
    }

    /// Copies bytes that it holds out of it, as many as fit into the slices.
    pub(super) fn read(&self, mut slices: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        while !slices.is_empty() {
            match readv(&self.exit, slices)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => IoSliceMut::advance_slices(&mut slices, count),
            }
        }
        Ok(())
    }
}
