//! What a run ran on, and the versions of everybody in it.

use crate::project::path;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

/// Programs that say their versions, and the words that make them.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("nbdkit", &["nbdkit", "--version"]),
    ("openssl", &["openssl", "version"]),
    ("perl", &["perl", "-e", r#"printf "%vd", $^V"#]),
    ("qemu", &["qemu-system-x86_64", "--version"]),
    ("rustc", &["rustc", "--version"]),
    ("socat", &["socat", "-V"]),
    ("stunnel", &["stunnel", "-version"]),
];

/// Where `make bench` installs the peer that is a crate with a program.
const WEBSOCAT: &str = "target/bench/bin/websocat";

/// Crates in the path, ours and the peers'.
const CRATES: &[&str] = &["fastwebsockets", "ring", "rustls", "tungstenite"];

/// Nothing that tells whose it is.
pub fn machine() -> BTreeMap<String, String> {
    let cores = available_parallelism().map_or(1, usize::from);
    let facts = [
        ("cpu", value("/proc/cpuinfo", "model name", ':')),
        ("cores", Some(cores.to_string())),
        ("memory", memory()),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("system", value("/etc/os-release", "PRETTY_NAME", '=')),
    ];
    known(facts.into_iter())
}

/// Those that are installed.
pub fn versions() -> BTreeMap<String, String> {
    let websocat = path(WEBSOCAT);
    let programs = PROGRAMS.iter().map(|(name, words)| (*name, version(words)));
    let crates = CRATES.iter().map(|name| (*name, locked(name)));
    let others = [
        ("pve-tunnel", Some(env!("CARGO_PKG_VERSION").to_owned())),
        (
            "websocat",
            version(&[websocat.to_str().unwrap(), "--version"]),
        ),
    ];
    known(programs.chain(crates).chain(others))
}

/// The day, in UTC.
pub fn today() -> String {
    let day = said_by(&["date", "-u", "+%F"]).unwrap();
    day.trim().to_owned()
}

fn known<'a>(facts: impl Iterator<Item = (&'a str, Option<String>)>) -> BTreeMap<String, String> {
    facts
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

fn memory() -> Option<String> {
    let total = value("/proc/meminfo", "MemTotal", ':')?;
    let kib: f64 = total.strip_suffix(" kB")?.parse().ok()?;
    Some(format!("{:.0} GiB", kib / f64::from(1 << 20)))
}

/// The first value of that key in a file of lines.
fn value(file: &str, key: &str, separator: char) -> Option<String> {
    let text = read(file)?;
    let pairs = text.lines().filter_map(|line| line.split_once(separator));
    let mut values = pairs.filter(|(name, _)| name.trim() == key);
    let (_, value) = values.next()?;
    Some(value.trim().trim_matches('"').to_owned())
}

fn read(file: &str) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

/// The first word that looks like one: `socat by … socat version 1.7.4.4 on …`.
fn version(words: &[&str]) -> Option<String> {
    let said = said_by(words)?;
    let is_version =
        |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    said.split_whitespace().find(is_version).map(str::to_owned)
}

/// Everything that a program prints; stunnel does it to its standard error.
fn said_by(words: &[&str]) -> Option<String> {
    let output = Command::new(words[0]).args(&words[1..]).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn locked(name: &str) -> Option<String> {
    let lock = include_str!("../../../Cargo.lock");
    let (_, after) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    let (version, _) = after.split_once('"')?;
    Some(version.to_owned())
}
