//! The local socket of a forward. Only its owner can connect to it, and it is removed when its value
//! is dropped.

use super::queue::waiting_connections;
use crate::system::readiness::{is_ready, register};
use nix::poll::PollFlags;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// Connections that may wait in the kernel's queue. QEMU opens up to 255 at once for multifd.
const BACKLOG: i32 = 256;

/// Names that are tried for a new socket. Other processes may have left files of the same name.
const NAMES: u32 = 100;

/// A listening socket whose path is removed when the value is dropped.
pub(super) struct LocalSocket {
    listener: AsyncFd<UnixListener>,
    path: PathBuf,
    /// Device and inode of the path.
    identity: (u64, u64),
}

impl LocalSocket {
    /// Binds it. The path must be free.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let (listener, identity) = listen(path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity,
        })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
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
        let (name, listener, identity) = self.listen_beside()?;
        let renamed = if is_at(&self.path, self.identity) {
            fs::rename(&name, &self.path)
        } else {
            Err(io::Error::other("its path was removed or taken over"))
        };
        if let Err(error) = renamed {
            remove(&name, identity);
            return Err(error);
        }
        self.listener = listener;
        self.identity = identity;
        Ok(())
    }

    /// A socket in the same directory, under a name that is not used yet.
    fn listen_beside(&self) -> io::Result<(PathBuf, AsyncFd<UnixListener>, (u64, u64))> {
        let pid = std::process::id();
        let mut number = 0;
        loop {
            let name = match number {
                0 => format!(".{pid}"),
                _ => format!(".{pid}.{number}"),
            };
            let name = self.path.with_file_name(name);
            match listen(&name) {
                Ok((listener, identity)) => return Ok((name, listener, identity)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && number < NAMES => {
                    number += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        remove(&self.path, self.identity);
    }
}

/// Makes a socket that only its owner can connect to: permissions are set before it listens. Also
/// returns device and inode of its path.
fn listen(path: &Path) -> io::Result<(AsyncFd<UnixListener>, (u64, u64))> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let metadata = fs::symlink_metadata(path)?;
    let identity = (metadata.dev(), metadata.ino());
    let ready = || {
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(register(UnixListener::from(socket), Interest::READABLE)?)
    };
    ready()
        .map(|listener| (listener, identity))
        .inspect_err(|_| remove(path, identity))
}

/// Removes a socket's path, unless another socket has it.
fn remove(path: &Path, identity: (u64, u64)) {
    if is_at(path, identity) {
        let _ = fs::remove_file(path);
    }
}

/// Whether a path names the socket of that device and inode. An open socket keeps both, even if its
/// path is removed.
fn is_at(path: &Path, identity: (u64, u64)) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == identity)
}
