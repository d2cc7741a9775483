//! A listening UNIX socket that only its owner can connect to, and whose path is removed with it.

use nix::unistd::{Uid, chown};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Connections that may wait in the kernel's queue. QEMU opens up to 255 at once for multifd.
const BACKLOG: i32 = 256;

/// The path of a socket. It is removed when the value is dropped, unless another socket has it.
pub(crate) struct SocketPath {
    path: PathBuf,
    /// Device and inode. An open socket keeps both, even if its path is removed.
    identity: (u64, u64),
}

impl SocketPath {
    /// Makes a socket at this path, which must be free. Permissions and owner are set before it listens.
    /// Without an owner it is the user of this process.
    pub(crate) fn listen(path: &Path, owner: Option<u32>) -> io::Result<(UnixListener, Self)> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let metadata = fs::symlink_metadata(path)?;
        let bound = Self {
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
        };
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        if let Some(owner) = owner {
            chown(path, Some(Uid::from_raw(owner)), None)?;
        }
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok((UnixListener::from(socket), bound))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still names this socket.
    pub(crate) fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity)
    }

    /// Moves the socket to another path. One that is there is replaced.
    pub(crate) fn rename(mut self, path: &Path) -> io::Result<Self> {
        fs::rename(&self.path, path)?;
        path.clone_into(&mut self.path);
        Ok(self)
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
