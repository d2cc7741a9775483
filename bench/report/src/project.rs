//! Files of the source tree.

use std::path::{Path, PathBuf};

/// The path of a file whose name is relative to the root of the source tree.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name)
}
