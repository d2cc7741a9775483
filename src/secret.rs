//! Text that must not be seen: tokens, tickets, URLs with tickets in them.

use serde::Deserialize;
use std::fmt;
use zeroize::Zeroizing;

/// A secret, wiped when dropped, and shown by nothing.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// The text, for the one place that needs it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}
