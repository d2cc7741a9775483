//! Reads the configuration of migrations to other clusters. The library parses it.

use pve_tunnel::configuration::{Configuration, ConfigurationError, Lines, MAX_FILE};
use std::fs::File;
use std::io::{self, Read};
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
    let content = match content(path) {
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

/// At most one byte more than a valid file has.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX);
    let file = File::open(path)?;
    file.take(limit.saturating_add(1))
        .read_to_end(&mut content)?;
    Ok(content)
}
