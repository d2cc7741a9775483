//! Directories below `/run`, through which processes of this node find each other.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Creates a directory that only the user of this process can use, if it does not exist.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Whether this process may not use such a directory because it is not root. Then it belongs to no
/// node, but to a test or to a program of its own.
pub(crate) fn is_denied(error: &io::Error) -> bool {
    let denied = matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotFound
    );
    denied && !nix::unistd::geteuid().is_root()
}
