//! Text for a terminal of 80 columns.

/// The width of lines, in characters.
pub(crate) const COLUMNS: usize = 80;

/// Wraps a text between words. The first line begins with `first`, the others are indented as far.
/// A word that is longer than a line is not divided.
pub(crate) fn wrapped(first: &str, text: &str) -> String {
    let indent = first.chars().count();
    let mut lines = String::from(first);
    let mut used = indent;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > indent && used + 1 + length > COLUMNS {
            lines.push('\n');
            lines.extend(std::iter::repeat_n(' ', indent));
            used = indent;
        }
        if used > indent {
            lines.push(' ');
            used += 1;
        }
        lines.push_str(word);
        used += length;
    }
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_the_terminal_and_keep_every_word() {
        let text = "one two ".repeat(30);
        let lines = wrapped("  - ", &text);
        assert!(lines.lines().all(|line| line.len() <= COLUMNS), "{lines}");
        assert!(lines.lines().any(|line| line.len() > COLUMNS - 4));
        assert!(lines.lines().skip(1).all(|line| line.starts_with("    ")));
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&lines)[1..], words(&text));
        let long = "x".repeat(100);
        assert_eq!(
            wrapped("", &format!("a {long} b")),
            format!("a\n{long}\nb\n")
        );
        assert_eq!(wrapped("  ", "exactly"), "  exactly\n");
    }
}
