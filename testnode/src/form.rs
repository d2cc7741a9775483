//! Query strings and form bodies, read as pveproxy reads them.

use percent_encoding::percent_decode_str;

/// The value of each key, in order.
///
/// Pairs end at `&` or `;`, `+` is a space, values are percent-encoded, and what follows a second
/// `=` in a pair is lost, as it is in pveproxy: a client that forgets to encode a `=` must fail
/// here too. Bytes that are not UTF-8 after decoding make the pair unusable, and it is left out.
pub(crate) fn pairs(text: &str) -> Vec<(String, String)> {
    text.split(['&', ';'])
        .filter_map(|pair| {
            let mut parts = pair.split('=');
            let key = decode(parts.next()?)?;
            let value = decode(parts.next().unwrap_or(""))?;
            (!key.is_empty()).then_some((key, value))
        })
        .collect()
}

fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::pairs;

    #[test]
    fn reads_as_pveproxy_does() {
        let table = [
            ("a=1&b=2", vec![("a", "1"), ("b", "2")]),
            (
                "path=%2Frun%2Fx&t=a+b",
                vec![("path", "/run/x"), ("t", "a b")],
            ),
            ("t=abc=def", vec![("t", "abc")]),
            ("t=abc%3Ddef", vec![("t", "abc=def")]),
            ("empty=&bare", vec![("empty", ""), ("bare", "")]),
            ("&&=x", vec![]),
            ("a=1;b=2", vec![("a", "1"), ("b", "2")]),
            ("bad=%FF&good=1", vec![("good", "1")]),
        ];
        for (text, expected) in table {
            let expected: Vec<(String, String)> = expected
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect();
            assert_eq!(pairs(text), expected, "{text}");
        }
    }
}
