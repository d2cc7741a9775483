//! The local socket of a forward. Only its owner can connect to it, and it is removed when its value
//! is dropped.

use super::queue::waiting_connections;
use crate::system::readiness::{is_ready, register};
use crate::system::socket_path::SocketPath;
use nix::poll::PollFlags;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// Names that are tried for a new socket. Other processes may have left files of the same name.
const NAMES: u32 = 100;

/// A listening socket whose path is removed when the value is dropped.
pub(super) struct LocalSocket {
    listener: AsyncFd<UnixListener>,
    place: SocketPath,
}

impl LocalSocket {
    /// Binds it. The path must be free.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let (listener, place) = listen(path)?;
        Ok(Self { listener, place })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        self.place.path()
    }

    /// Waits until another connection has arrived since the last call, or may have.
    pub(super) async fn arrival(&self) -> io::Result<()> {
        // The kernel reports each arrival, so the readiness can be cleared while connections wait.
        self.listener.readable().await?.clear_ready();
        Ok(())
    }

    /// How many connections wait. Not more than one if the kernel does not report the number.
    pub(super) fn waiting(&self) -> io::Result<usize> {
        let listener = self.listener.get_ref();
        if !is_ready(listener, PollFlags::POLLIN)? {
            return Ok(0);
        }
        Ok(waiting_connections(listener)
            .map_or(1, |count| count as usize)
            .max(1))
    }

    /// Accepts a waiting connection; none if it is gone.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.get_ref().accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Resets all waiting connections: a new socket replaces the path atomically, and the old socket is
    /// closed with its queue. A path that is not this socket's any more is left as it is.
    pub(super) fn reset_pending(&mut self) -> io::Result<()> {
        let (listener, beside) = self.listen_beside()?;
        if !self.place.is_there() {
            return Err(io::Error::other("its path was removed or taken over"));
        }
        self.place = beside.rename(self.place.path())?;
        self.listener = listener;
        Ok(())
    }

    /// A socket in the same directory, under a name that is not used yet.
    fn listen_beside(&self) -> io::Result<(AsyncFd<UnixListener>, SocketPath)> {
        let pid = std::process::id();
        let mut number = 0;
        loop {
            let name = match number {
                0 => format!(".{pid}"),
                _ => format!(".{pid}.{number}"),
            };
            let name = self.place.path().with_file_name(name);
            match listen(&name) {
                Ok(beside) => return Ok(beside),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && number < NAMES => {
                    number += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn listen(path: &Path) -> io::Result<(AsyncFd<UnixListener>, SocketPath)> {
    let (listener, place) = SocketPath::listen(path, None)?;
    Ok((register(listener, Interest::READABLE)?, place))
}
