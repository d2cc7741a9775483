//! The direction of imports: a room (a module at the root of the crate) imports only from rooms on
//! lower floors, and the modules of a room do not import each other in a cycle.
//!
//! A crate of its own, because it needs only the source files.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The rooms of the library, lowest floor first. A new room has to be added here.
const FLOORS: &[&[&str]] = &[
    &["scalar", "guest_socket", "plane", "quantity", "secret"],
    &["system", "websocket", "tls", "lanes"],
    &["relay", "network", "tuning"],
    &["configuration", "capability"],
    &["plan", "process", "publication"],
    &["direct"],
    &["connector", "listener", "seam"],
    &["ffi", "fuzzing"],
];

/// The modules of the benchmarks (`bench/src`), lowest floor first.
const BENCH_FLOORS: &[&[&str]] = &[
    &[
        "affinity", "output", "project", "qemu", "throttle", "tunnel",
    ],
    &["measure", "network"],
    &["load", "peer", "perl"],
    &["connection", "guest", "plane", "role"],
    &["case", "machine"],
    &["report"],
];

/// The modules of the benchmarks' report (`bench/report/src`), lowest floor first.
const REPORT_FLOORS: &[&[&str]] = &[
    &["project", "text"],
    &["case", "row"],
    &["results"],
    &["group"],
    &["distance", "markdown", "picture", "table"],
    &["files"],
];

/// A module's path below the crate, as in `["connector", "forward"]`, and its source text.
type Modules = BTreeMap<Vec<String>, String>;

#[test]
fn the_library_imports_downwards_only() {
    let modules = read_modules("src");
    assert!(modules.len() > 50, "only {} modules found", modules.len());
    let violations = violations(FLOORS, &modules);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn the_benchmarks_import_downwards_only() {
    let modules = read_modules("bench/src");
    assert!(modules.len() > 40, "only {} modules found", modules.len());
    let violations = violations(BENCH_FLOORS, &modules);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn the_report_imports_downwards_only() {
    let modules = read_modules("bench/report/src");
    assert!(modules.len() > 10, "only {} modules found", modules.len());
    let violations = violations(REPORT_FLOORS, &modules);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn an_upward_import_is_found_in_every_spelling() {
    for source in [
        "use crate::connector::Options;",
        "use crate::{\n    scalar,\n    connector::{self, Options},\n};",
        "fn f() { crate::connector::run() }",
        "use super::connector::Options;",
        "use super::super::connector::Options;",
    ] {
        let path: &[&str] = match source.contains("super::super") {
            true => &["plan", "seam"],
            false => &["plan"],
        };
        let found = violations(FLOORS, &modules(&[(path, source)]));
        assert_eq!(
            found,
            ["plan imports connector, which is on a higher floor"]
        );
    }
}

#[test]
fn an_import_of_the_same_floor_and_a_room_without_a_floor_are_found() {
    let found = violations(
        FLOORS,
        &modules(&[
            (&["listener"], "use crate::connector::Options;"),
            (&["unlisted"], ""),
        ]),
    );
    assert_eq!(
        found,
        [
            "listener imports connector, which is on the same floor",
            "unlisted is not in the table of floors in tests/floors.rs"
        ]
    );
}

#[test]
fn an_import_cycle_inside_a_room_is_found() {
    let found = violations(
        FLOORS,
        &modules(&[
            (&["connector", "record"], "use super::traffic::Total;"),
            (&["connector", "traffic"], "use super::units::Size;"),
            (
                &["connector", "units"],
                "use crate::connector::record::Record;",
            ),
        ]),
    );
    assert_eq!(
        found,
        ["connector: record -> traffic -> units -> record is an import cycle"]
    );
}

#[test]
fn comments_and_unit_tests_do_not_count() {
    let source = "//! See [`crate::connector`].\n#[cfg(test)]\nmod tests { use crate::ffi; }";
    let found = violations(FLOORS, &modules(&[(&["plan"], source)]));
    assert!(found.is_empty(), "{found:?}");
}

fn modules(list: &[(&[&str], &str)]) -> Modules {
    list.iter()
        .map(|(path, source)| {
            let path = path.iter().map(|name| (*name).to_owned()).collect();
            (path, (*source).to_owned())
        })
        .collect()
}

/// Every module below a folder of the source tree, except the root of the crate.
fn read_modules(folder: &str) -> Modules {
    let mut modules = Modules::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    collect(&folder, &[], &mut modules);
    modules
}

fn collect(folder: &Path, path: &[String], modules: &mut Modules) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap().path();
        let name = entry.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut inner = path.to_vec();
        if entry.is_dir() {
            inner.push(name);
            collect(&entry, &inner, modules);
        } else if entry.extension().is_some_and(|extension| extension == "rs")
            && !["lib", "main"].contains(&name.as_str())
        {
            if name != "mod" {
                inner.push(name);
            }
            modules.insert(inner, fs::read_to_string(&entry).unwrap());
        }
    }
}

fn violations(floors: &[&[&str]], modules: &Modules) -> Vec<String> {
    let floor = |room: &str| floors.iter().position(|rooms| rooms.contains(&room));
    let imports: BTreeMap<&Vec<String>, BTreeSet<Vec<String>>> = modules
        .iter()
        .map(|(path, source)| (path, imports(path, source)))
        .collect();
    let mut found = BTreeSet::new();
    for (path, imported) in &imports {
        let room = path[0].as_str();
        let Some(own) = floor(room) else {
            found.insert(format!(
                "{room} is not in the table of floors in tests/floors.rs"
            ));
            continue;
        };
        for other in imported.iter().map(|target| target[0].as_str()) {
            let Some(height) = floor(other).filter(|_| other != room) else {
                continue;
            };
            if height >= own {
                let position = if height > own { "a higher" } else { "the same" };
                found.insert(format!(
                    "{room} imports {other}, which is on {position} floor"
                ));
            }
        }
    }
    let folders: BTreeSet<&[String]> = modules
        .keys()
        .filter_map(|path| path.split_last().map(|(_, folder)| folder))
        .filter(|folder| !folder.is_empty())
        .collect();
    for folder in folders {
        found.extend(import_cycle(folder, &imports));
    }
    found.into_iter().collect()
}

/// An import cycle between the modules directly in a folder. Imports of and by the folder's own
/// `mod.rs` do not count: a module uses what its parent declares.
fn import_cycle(
    folder: &[String],
    imports: &BTreeMap<&Vec<String>, BTreeSet<Vec<String>>>,
) -> Option<String> {
    let child = |path: &[String]| {
        let rest = path.strip_prefix(folder)?;
        rest.first().cloned()
    };
    let children: BTreeSet<String> = imports.keys().filter_map(|path| child(path)).collect();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, imported) in imports {
        let Some(from) = child(path) else { continue };
        for to in imported.iter().filter_map(|target| child(target)) {
            if to != from && children.contains(&to) {
                edges.entry(from.clone()).or_default().insert(to);
            }
        }
    }
    let cycle = children
        .iter()
        .find_map(|start| find_cycle(start, &edges, &mut vec![start.clone()]))?;
    Some(format!(
        "{}: {} is an import cycle",
        folder.join("::"),
        cycle.join(" -> ")
    ))
}

/// A cycle through `start`. `so_far` is the path from it.
fn find_cycle(
    start: &str,
    edges: &BTreeMap<String, BTreeSet<String>>,
    so_far: &mut Vec<String>,
) -> Option<Vec<String>> {
    let last = so_far.last()?.clone();
    for next in edges.get(&last).into_iter().flatten() {
        so_far.push(next.clone());
        if next == start {
            return Some(so_far.clone());
        }
        if so_far.iter().filter(|name| *name == next).count() == 1 {
            if let Some(found) = find_cycle(start, edges, so_far) {
                return Some(found);
            }
        }
        so_far.pop();
    }
    None
}

/// The absolute paths, below the crate, that a module's source names.
fn imports(module: &[String], source: &str) -> BTreeSet<Vec<String>> {
    let code: String = source
        .split("#[cfg(test)]")
        .next()
        .unwrap_or_default()
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for (keyword, base) in [("crate::", Vec::new()), ("super::", parent(module))] {
        for (at, _) in code.match_indices(keyword) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut base = base.clone();
            let mut rest = &code[at + keyword.len()..];
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            for names in imported_paths(rest) {
                let mut path = base.clone();
                path.extend(names);
                found.insert(path);
            }
        }
    }
    found.retain(|path| !path.is_empty());
    found
}

fn parent(module: &[String]) -> Vec<String> {
    module[..module.len() - 1].to_vec()
}

/// The paths at the start of a text: `a::b` is one, `{a::b, c}` are two.
fn imported_paths(text: &str) -> Vec<Vec<String>> {
    if let Some(list) = text.strip_prefix('{') {
        let mut depth = 0;
        let mut items = vec![String::new()];
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    items.push(String::new());
                    continue;
                }
                _ => {}
            }
            items.last_mut().unwrap().push(c);
        }
        return items
            .iter()
            .flat_map(|item| imported_paths(item.trim()))
            .collect();
    }
    let names = text
        .split("::")
        .map(|part| {
            let end = part.find(|c: char| !c.is_alphanumeric() && c != '_');
            (&part[..end.unwrap_or(part.len())], end.is_some())
        })
        .scan(false, |ended, (name, last)| {
            let go_on = !*ended && !name.is_empty();
            *ended |= last;
            go_on.then(|| name.to_owned())
        });
    let names: Vec<String> = names.collect();
    if names.is_empty() {
        Vec::new()
    } else {
        vec![names]
    }
}
