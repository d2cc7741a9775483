//! Files of the project.

use std::path::{Path, PathBuf};

/// The path of a file that is named relative to the root of the source tree.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}
