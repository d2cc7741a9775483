//! The tags of a guest that only a token with `Sys.Modify` on `/` may set at the target.

use serde_json::Value;

/// The tags in the option `tags` of a guest that the target rejects, by its answer to `GET /cluster/options`:
/// registered ones, and, if it restricts tags, those that it does not allow to the token
/// (`PVE::GuestHelpers::assert_tag_permissions`).
pub(super) fn rejected<'a>(tags: &'a str, options: &Value) -> Vec<&'a str> {
    let mode = options.pointer("/user-tag-access/user-allow");
    let any_is_allowed = mode
        .and_then(Value::as_str)
        .is_none_or(|mode| mode == "free");
    let is_rejected = |tag: &&str| {
        let listed = |name: &str| {
            let list = options.get(name).and_then(Value::as_array);
            list.is_some_and(|list| list.iter().any(|each| each.as_str() == Some(*tag)))
        };
        listed("registered-tags") || (!any_is_allowed && !listed("allowed-tags"))
    };
    let tags = tags.split([';', ',', ' ']).filter(|tag| !tag.is_empty());
    tags.filter(is_rejected).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn registered_and_not_allowed_tags_are_rejected() {
        let access = |mode: &str| json!({ "user-tag-access": { "user-allow": mode }, "allowed-tags": ["web"] });
        #[rustfmt::skip] // One row a line.
        let table = [
            ("web;db", json!({}), ""),
            ("web;db", json!({ "allowed-tags": [] }), ""),
            ("web;db", json!({ "registered-tags": ["db"], "allowed-tags": ["web"] }), "db"),
            ("web;db", access("free"), ""),
            ("web,db x", access("list"), "db x"),
            ("web;db", access("existing"), "db"),
            ("", access("none"), ""),
        ];
        for (tags, options, expected) in table {
            assert_eq!(
                rejected(tags, &options).join(" "),
                expected,
                "{tags} {options}"
            );
        }
    }
}
