//! Confidential text: tokens, tickets, URLs with tickets.

use serde::Deserialize;
use std::fmt;
use zeroize::Zeroizing;

/// Confidential text. It is wiped when dropped, and its `Debug` output does not contain it.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// The text itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}
