//! The storages and bridges of the target, as `--target-storage` and `--target-bridge` give them: an ID, or a map as
//! `qm remote-migrate` takes it (`parse_idmap` and `map_id` in `PVE::JSONSchema`).

/// Which storage or bridge of the target replaces one of this node.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct IdMap {
    /// From an ID of this node to one of the target.
    entries: Vec<(String, String)>,
    /// For all other IDs of this node; they keep their names if there is none. If there are several, the
    /// migration will use one of them.
    defaults: Vec<String>,
    /// Whether all IDs keep their names: `1`.
    is_identity: bool,
}

impl IdMap {
    /// Reads the values of a repeated option, each a list of `ID`, `HERE:TARGET` or `1`.
    pub(super) fn parse(values: &[String]) -> Result<Self, String> {
        let mut map = Self::default();
        let separators = |c: char| c.is_ascii_whitespace() || ",;".contains(c);
        let items = values.iter().flat_map(|value| value.split(separators));
        for item in items.filter(|item| !item.is_empty()) {
            let parts: Vec<&str> = item.split(':').collect();
            match parts.as_slice() {
                ["1"] => map.is_identity = true,
                [id] if is_id(id) => map.defaults.push((*id).to_owned()),
                [here, _] if map.entries.iter().any(|(known, _)| known == here) => {
                    return Err(format!("'{here}' is there twice"));
                }
                [here, target] if is_id(here) && is_id(target) => {
                    map.entries.push(((*here).to_owned(), (*target).to_owned()));
                }
                _ => return Err(format!("'{item}' is neither ID nor HERE:TARGET")),
            }
        }
        let others = map.entries.len() + map.defaults.len();
        if map.is_identity && others > 0 {
            return Err("'1' stands for all, so nothing else can be given".to_owned());
        }
        if !map.entries.is_empty() && map.defaults.len() > 1 {
            return Err(format!(
                "a map can have one ID for all others, and not {}",
                map.defaults.join(" and ")
            ));
        }
        Ok(map)
    }

    /// Whether it is `1`, which maps each ID to itself.
    pub(super) fn is_identity(&self) -> bool {
        self.is_identity
    }

    /// Whether it is known which ID of the target replaces each one of this node.
    pub(super) fn is_certain(&self) -> bool {
        self.is_identity || !self.entries.is_empty() || self.defaults.len() == 1
    }

    /// What replaces an ID of this node, if that is certain.
    pub(super) fn target<'a>(&'a self, here: &'a str) -> &'a str {
        let entry = self.entries.iter().find(|(known, _)| known == here);
        let target = entry.map(|(_, target)| target).or(self.defaults.first());
        target.map_or(here, String::as_str)
    }

    /// The IDs of the target that a guest needs which uses these IDs of this node; without a guest, all that
    /// are named.
    pub(super) fn needed(&self, used: Option<Vec<&str>>) -> Vec<String> {
        let is_map = self.is_identity || !self.entries.is_empty();
        let needed: Vec<&str> = match &used {
            Some(used) if is_map => used.iter().map(|here| self.target(here)).collect(),
            _ => {
                let named = self.entries.iter().map(|(_, target)| target);
                named.chain(&self.defaults).map(String::as_str).collect()
            }
        };
        let mut once: Vec<String> = Vec::new();
        for id in needed {
            if !once.iter().any(|known| known == id) {
                once.push(id.to_owned());
            }
        }
        once
    }
}

/// The characters of the IDs of storages and bridges.
fn is_id(text: &str) -> bool {
    let valid = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    !text.is_empty() && text.chars().all(valid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(values: &[&str]) -> Result<IdMap, String> {
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        IdMap::parse(&values)
    }

    #[test]
    fn a_guest_needs_what_replaces_what_it_uses() {
        #[rustfmt::skip] // One row a line.
        let table: [(&[&str], Option<&str>, &str); 13] = [
            (&[], Some("a"), ""),
            (&["x"], None, "x"),
            (&["x"], Some("a b"), "x"),
            // The only ID is checked for a guest that uses none, too.
            (&["x"], Some(""), "x"),
            (&["x", "y"], Some("a"), "x y"),
            (&["a:x,b:y"], Some("a"), "x"),
            (&["a:x,b:y"], None, "x y"),
            (&["a:x", "b:x"], Some("a b"), "x"),
            (&["a:x;z"], Some("a b"), "x z"),
            (&["a:x, z"], None, "x z"),
            (&["a:x"], Some("b"), "b"),
            (&["1"], Some("a b a"), "a b"),
            (&["1"], None, ""),
        ];
        for (values, used, expected) in table {
            let used = used.map(|used| used.split_whitespace().collect());
            let needed = parse(values).unwrap().needed(used);
            assert_eq!(needed.join(" "), expected, "{values:?}");
        }
    }

    #[test]
    fn several_ids_leave_open_which_one_is_used() {
        for (values, expected) in [
            (&["x"][..], true),
            (&["a:x"], true),
            (&["1"], true),
            (&["x", "y"], false),
            (&[], false),
        ] {
            assert_eq!(parse(values).unwrap().is_certain(), expected, "{values:?}");
        }
    }

    #[test]
    fn each_mistake_is_named() {
        #[rustfmt::skip] // One row a line.
        let table: [(&[&str], &str); 7] = [
            (&["a:b:c"], "'a:b:c' is neither ID nor HERE:TARGET"),
            (&["a:"], "'a:' is neither ID nor HERE:TARGET"),
            (&[":b"], "':b' is neither ID nor HERE:TARGET"),
            (&["a/b"], "'a/b' is neither ID nor HERE:TARGET"),
            (&["a:x,a:y"], "'a' is there twice"),
            (&["1,x"], "'1' stands for all, so nothing else can be given"),
            (&["a:x,y,z"], "a map can have one ID for all others, and not y and z"),
        ];
        for (values, expected) in table {
            assert_eq!(parse(values).unwrap_err(), expected, "{values:?}");
        }
    }
}
