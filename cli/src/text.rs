//! Text for a terminal of 80 columns.

/// The width of lines, in characters.
pub(crate) const COLUMNS: usize = 80;

/// Wraps a text between words. The first line begins with `first`, the others are indented as far.
/// A word that is longer than a line is not divided. Neither is a quotation that fits a line: it may be a
/// command, which has to be copied.
pub(crate) fn wrapped(first: &str, text: &str) -> String {
    let indent = first.chars().count();
    let mut lines = String::from(first);
    let mut used = indent;
    for word in words(text, COLUMNS.saturating_sub(indent)) {
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
        lines.push_str(&word);
        used += length;
    }
    lines.push('\n');
    lines
}

/// At most so many characters; the rest is replaced by three dots.
pub(crate) fn cut(text: String, width: usize) -> String {
    if text.chars().count() <= width {
        return text;
    }
    let start = text.chars().take(width.saturating_sub(3));
    start.chain("...".chars()).collect()
}

/// The words of a text. A quotation such as 'pvesm status' of at most so many characters is one of them.
fn words(text: &str, longest: usize) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest: Vec<&str> = text.split_whitespace().collect();
    while !rest.is_empty() {
        let count = match rest[0].trim_start_matches('(').starts_with('\'') {
            true => rest
                .iter()
                .position(ends_quotation)
                .map_or(1, |end| end + 1),
            false => 1,
        };
        let joined = rest[..count].join(" ");
        let count = match joined.chars().count() > longest {
            true => 1,
            false => count,
        };
        words.push(rest[..count].join(" "));
        rest.drain(..count);
    }
    words
}

/// The quotation mark can be followed by punctuation.
fn ends_quotation(word: &&str) -> bool {
    let word = word.trim_end_matches(['.', ',', ';', ':', ')']);
    word.len() > 1 && word.ends_with('\'')
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

    #[test]
    fn a_quoted_command_is_not_divided() {
        let before = "x".repeat(70);
        #[rustfmt::skip] // One row a line.
        let table = [
            ("'pvesm status' on the target", "\n'pvesm status' on the target\n"),
            ("'pveum user list', then", "\n'pveum user list', then\n"),
            ("('pvesm status')", "\n('pvesm status')\n"),
            // Not a quotation: it has no end.
            ("'tis not the", " 'tis not\nthe\n"),
            ("the node's name is", " the\nnode's name is\n"),
        ];
        for (text, expected) in table {
            assert_eq!(
                wrapped("", &format!("{before} {text}")),
                format!("{before}{expected}")
            );
        }
        let long = format!("'{}'", "word ".repeat(20).trim_end());
        assert!(wrapped("", &long).lines().all(|line| line.len() <= COLUMNS));
    }
}
