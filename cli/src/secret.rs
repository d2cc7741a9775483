//! Secrets in texts that are given by mistake, and that no message may repeat.

/// The lengths of the groups of a UUID, which is the secret of an API token of Proxmox VE.
const UUID: [usize; 5] = [8, 4, 4, 4, 12];

/// Whether a text may contain the secret of an API token: a UUID, or what precedes one.
pub(crate) fn may_contain_secret(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    lower.contains("apitoken") || contains_uuid(&lower)
}

fn contains_uuid(lower: &str) -> bool {
    let length = UUID.iter().sum::<usize>() + UUID.len() - 1;
    lower.as_bytes().windows(length).any(is_uuid)
}

fn is_uuid(bytes: &[u8]) -> bool {
    let groups: Vec<&[u8]> = bytes.split(|byte| *byte == b'-').collect();
    groups.iter().map(|group| group.len()).eq(UUID)
        && groups.concat().iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_and_a_token_are_found_anywhere() {
        let uuid = "abcdef01-2222-3333-4444-555555555555";
        #[rustfmt::skip] // One row a line.
        let table = [
            (uuid.to_owned(), true),
            (uuid.to_uppercase(), true),
            (format!("x{uuid}y"), true),
            (format!("é{uuid}"), true),
            ("host=a,apitoken=b".to_owned(), true),
            ("PVEAPIToken".to_owned(), true),
            (uuid.replace('c', "g"), false),
            (uuid.replace('-', ""), false),
            (uuid[1..].to_owned(), false),
            ("dc2".to_owned(), false),
            (String::new(), false),
        ];
        for (text, expected) in table {
            assert_eq!(may_contain_secret(&text), expected, "{text}");
        }
    }
}
