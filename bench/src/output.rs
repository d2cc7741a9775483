//! What the benchmark prints.

use std::fmt::Display;
use std::io::{self, Write};

/// Prints a line. A reader that has ended, such as `head`, is not an error: the results are written to
/// their file.
pub(crate) fn line(text: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}
