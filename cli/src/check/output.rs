//! Writing to standard output.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints at once, so that a reader sees each finding when it exists. A reader that has ended, such as
/// `head`, is not an error: the check still has to clean up.
pub(super) fn print(text: impl Display) {
    let mut output = io::stdout().lock();
    let _ = write!(output, "{text}").and_then(|()| output.flush());
}
