//! Query strings and form bodies, parsed as pveproxy parses them.

use percent_encoding::percent_decode_str;

/// All keys and values, in order.
///
/// `&` and `;` separate pairs, `+` is a space, and keys and values are percent-encoded. The text
/// after a second `=` in a pair is discarded, as in pveproxy: a client that does not encode a `=`
/// must fail here too. A pair that is not UTF-8 after decoding is omitted.
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
    fn parses_forms_as_pveproxy_does() {
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
