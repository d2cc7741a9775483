//! Perl scalars in JSON, and foreign text in messages.
//!
//! Perl has one type for scalars, and encodes a scalar that was last used as a string as a string.
//! So `2` may arrive as `"2"`, and false as `0`, `"0"`, `""`, `null` or `false`. Only these
//! spellings are accepted; nothing is rounded or trimmed.

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Longest foreign text in a message, in characters.
const MAX_SHOWN: usize = 600;

/// Time limits that options may set, in seconds.
const TIME_LIMITS: RangeInclusive<f64> = 0.001..=3600.0;

/// The JSON type of a value, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Characters that are printable by their Unicode category, but have no visible form: the default
/// ignorable code points (Unicode, DerivedCoreProperties.txt) that are not format characters, and
/// the empty Braille pattern.
const BLANK: [RangeInclusive<char>; 11] = [
    '\u{034f}'..='\u{034f}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// Foreign text for a one-line message: control characters become spaces, invisible characters
/// become escape sequences (see [`visible`]), and long text is cut.
pub fn one_line(text: &str) -> String {
    one_line_within(text, MAX_SHOWN)
}

/// As [`one_line`], with another limit in characters.
#[must_use]
pub fn one_line_within(text: &str, limit: usize) -> String {
    let text = text.trim();
    let mut line: String = text.chars().take(limit).flat_map(visible).collect();
    if text.chars().nth(limit).is_some() {
        line.push_str("...");
    }
    line
}

/// A character of a line in a log. A control character becomes a space. A character that is not
/// visible, or that changes the direction or the place of others (U+202E), becomes an escape
/// sequence such as `\u{202e}`: a terminal and a browser must not show another text than the one
/// that was logged.
pub(crate) fn visible(c: char) -> impl Iterator<Item = char> {
    let c = if c.is_control() { ' ' } else { c };
    let escaped = is_invisible(c).then(|| c.escape_unicode());
    let plain = escaped.is_none().then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

/// Characters of the categories Cf, Cn, Co, Zl, Zp and Zs, except the space, and [`BLANK`] ones.
fn is_invisible(c: char) -> bool {
    if c.is_ascii() {
        return false;
    }
    // The standard library escapes the unprintable categories. It also escapes a combining
    // character at the beginning of a text, but such characters are visible.
    let text = String::from_iter(['x', c]);
    text.escape_debug().nth(1) == Some('\\') || BLANK.iter().any(|range| range.contains(&c))
}

/// Foreign text as it was given, for a one-line message: white space at its ends is kept, control
/// and invisible characters become escape sequences, and long text is cut. A message about a value
/// has to show what is wrong with it.
pub(crate) fn as_given(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().take(MAX_SHOWN) {
        if c.is_control() {
            line.extend(c.escape_debug());
        } else {
            line.extend(visible(c));
        }
    }
    if text.chars().nth(MAX_SHOWN).is_some() {
        line.push_str("...");
    }
    line
}

/// Foreign text in quotes, see [`as_given`].
pub(crate) fn shown(text: &str) -> String {
    format!("'{}'", as_given(text))
}

/// Whether a text has characters that a reader of a message cannot see, other than spaces.
pub(crate) fn has_invisible(text: &str) -> bool {
    text.chars().any(is_invisible)
}

/// A decimal number without sign, leading zero, fraction and spaces.
pub(crate) fn decimal_text(text: &str) -> Option<u64> {
    let canonical = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// A number, or a string as for [`decimal_text`].
pub(crate) fn decimal(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => decimal_text(text),
        _ => None,
    }
}

/// A number, or a string of decimal digits, with or without a fraction.
pub(crate) fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
            let digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
            decimal_text(whole).filter(|_| digits)?;
            text.parse().ok()
        }
        _ => None,
    }
}

/// A boolean as Perl may write it.
pub(crate) fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Null => Some(false),
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => match number.as_u64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(text) => match text.as_str() {
            "" | "0" => Some(false),
            "1" => Some(true),
            _ => None,
        },
        _ => None,
    }
}

/// For `deserialize_with`: an unsigned number of any size, see [`decimal`].
pub(crate) fn deserialize_number<'de, D, T>(source: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let value = Value::deserialize(source)?;
    decimal(&value)
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| {
            de::Error::custom(format!(
                "expected a number up to {}, got {}",
                u64::MAX >> (64 - 8 * size_of::<T>()),
                kind(&value)
            ))
        })
}

/// For `deserialize_with`: as [`deserialize_number`], or null.
pub(crate) fn deserialize_optional_number<'de, D, T>(source: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    match Value::deserialize(source)? {
        Value::Null => Ok(None),
        value => deserialize_number(value)
            .map(Some)
            .map_err(de::Error::custom),
    }
}

/// For `deserialize_with`: see [`real`].
pub(crate) fn deserialize_real<'de, D: Deserializer<'de>>(source: D) -> Result<f64, D::Error> {
    let value = Value::deserialize(source)?;
    real(&value).ok_or_else(|| {
        let found = match &value {
            Value::String(text) => shown(text),
            other => kind(other).to_owned(),
        };
        de::Error::custom(format!("expected a number, got {found}"))
    })
}

/// For `deserialize_with`: see [`flag`].
pub(crate) fn deserialize_flag<'de, D: Deserializer<'de>>(source: D) -> Result<bool, D::Error> {
    let value = Value::deserialize(source)?;
    flag(&value)
        .ok_or_else(|| de::Error::custom(format!("expected a boolean, got {}", kind(&value))))
}

/// For `deserialize_with`: an undefined Perl value stands for the default, as an absent key does.
pub(crate) fn deserialize_or_default<'de, D, T>(source: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(source).map(Option::unwrap_or_default)
}

/// For `deserialize_with`: a time limit in seconds, within [`TIME_LIMITS`].
pub(crate) fn deserialize_time_limit<'de, D: Deserializer<'de>>(
    source: D,
) -> Result<Duration, D::Error> {
    let seconds = deserialize_real(source)?;
    if !TIME_LIMITS.contains(&seconds) {
        return Err(de::Error::custom(format!(
            "a time limit is from {} to {} seconds",
            TIME_LIMITS.start(),
            TIME_LIMITS.end()
        )));
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text of one invisible character between two letters, and what is shown.
    const INVISIBLE: [(&str, char, &str); 16] = [
        ("soft hyphen", '\u{ad}', "a\\u{ad}b"),
        ("no-break space", '\u{a0}', "a\\u{a0}b"),
        ("Arabic letter mark", '\u{61c}', "a\\u{61c}b"),
        ("zero width space", '\u{200b}', "a\\u{200b}b"),
        ("zero width joiner", '\u{200d}', "a\\u{200d}b"),
        ("right-to-left mark", '\u{200f}', "a\\u{200f}b"),
        ("line separator", '\u{2028}', "a\\u{2028}b"),
        ("paragraph separator", '\u{2029}', "a\\u{2029}b"),
        ("right-to-left override", '\u{202e}', "a\\u{202e}b"),
        ("first strong isolate", '\u{2068}', "a\\u{2068}b"),
        ("ideographic space", '\u{3000}', "a\\u{3000}b"),
        ("Hangul filler", '\u{3164}', "a\\u{3164}b"),
        ("variation selector", '\u{fe0f}', "a\\u{fe0f}b"),
        ("byte order mark", '\u{feff}', "a\\u{feff}b"),
        ("private use", '\u{e000}', "a\\u{e000}b"),
        ("tag", '\u{e0041}', "a\\u{e0041}b"),
    ];

    #[test]
    fn invisible_characters_are_shown_as_escape_sequences() {
        for (name, c, expected) in INVISIBLE {
            assert_eq!(one_line(&format!("a{c}b")), expected, "{name}");
        }
    }

    #[test]
    fn a_value_is_shown_as_it_was_given() {
        for (given, expected) in [
            (" a ", "' a '"),
            ("a\n", "'a\\n'"),
            ("a\0\u{7f}", "'a\\0\\u{7f}'"),
            ("\u{a0}a", "'\\u{a0}a'"),
            ("büro☺", "'büro☺'"),
        ] {
            assert_eq!(shown(given), expected);
        }
        assert_eq!(as_given(&"x".repeat(700)).len(), MAX_SHOWN + 3);
    }

    #[test]
    fn control_characters_become_spaces() {
        for c in [
            '\0', '\n', '\r', '\t', '\u{1b}', '\u{7f}', '\u{85}', '\u{9b}',
        ] {
            assert_eq!(one_line(&format!("a{c}b")), "a b", "{c:?}");
        }
    }

    #[test]
    fn visible_text_is_kept() {
        for text in [
            "a \\ b 'c' \"d\"",
            "é e\u{301}",
            "สวัสดี",
            "नमस्ते",
            "שלום",
            "中文",
            "😀",
        ] {
            assert_eq!(one_line(text), text);
        }
    }

    #[test]
    fn the_limit_counts_characters_of_the_text() {
        let text = "\u{202e}".repeat(3);
        assert_eq!(one_line_within(&text, 2), "\\u{202e}\\u{202e}...");
        assert_eq!(one_line_within("ab", 2), "ab");
    }
}
