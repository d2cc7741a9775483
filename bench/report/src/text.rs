//! Numbers and names as text.

/// A number with about three significant digits.
pub fn short(value: f64) -> String {
    precise(value, 0)
}

/// A number with about three significant digits and `more` digits.
pub fn precise(value: f64, more: usize) -> String {
    let decimals = match value.abs() {
        0.0 => return "0".to_owned(),
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.1 => 2,
        _ => 3,
    };
    format!("{value:.*}", decimals + more)
}

/// A text of at most `width` characters. A longer text is cut and ends with an ellipsis.
pub fn clipped(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

/// The number of characters.
pub fn length(text: &str) -> usize {
    text.chars().count()
}
