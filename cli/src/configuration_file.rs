//! Reads the configuration of migrations to other clusters. The library parses it.

use crate::opened_file;
use pve_tunnel::configuration::{Configuration, ConfigurationError, Lines, MAX_FILE};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The file of a node. All nodes of a cluster share it.
pub(crate) const PATH: &str = "/etc/pve/remote-migration.cfg";

/// Why a migration cannot use the file.
#[derive(Debug, Error)]
pub(crate) enum FileError {
    /// The file exists, and cannot be read.
    #[error("cannot read {}: {cause}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// The content is not valid.
    #[error("{}: {cause}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The first mistake, with its line.
        cause: ConfigurationError,
    },
}

/// The content of the file, and the lines of its sections and keys. None if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<(Configuration, Lines)>, FileError> {
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX);
    let content = match opened_file::read(path, limit) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => {
            let path = path.to_owned();
            return Err(FileError::Read { path, cause });
        }
        Ok(content) => content,
    };
    match Configuration::parse_with_lines(&content) {
        Ok(parsed) => Ok(Some(parsed)),
        Err(cause) => {
            let path = path.to_owned();
            Err(FileError::Invalid { path, cause })
        }
    }
}
