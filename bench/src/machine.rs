//! The machine, and the versions of all programs.

use crate::peer::{aggligator, websocat};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

/// Programs, and the commands that print their versions.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("openssl", &["openssl", "version"]),
    ("perl", &["perl", "-e", r#"printf "%vd", $^V"#]),
    ("qemu", &["qemu-system-x86_64", "--version"]),
    ("rustc", &["rustc", "--version"]),
    ("socat", &["socat", "-V"]),
    ("stunnel", &["stunnel", "-version"]),
];

/// The locked versions of the crates in this workspace, and in that of the peer aggligator.
const LOCK: &str = include_str!("../../Cargo.lock");
const AGGLIGATOR_LOCK: &str = include_str!("../peers/aggligator/Cargo.lock");

/// Crates that pve-tunnel and its peers use.
const CRATES: &[&str] = &["fastwebsockets", "ring", "rustls", "tungstenite"];

/// Properties of the machine that the report publishes: no host name and no address.
pub fn machine() -> BTreeMap<String, String> {
    let cores = available_parallelism().map_or(1, usize::from);
    let facts = [
        ("cpu", value("/proc/cpuinfo", "model name", ':')),
        ("cores", Some(cores.to_string())),
        ("memory", memory()),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("system", value("/etc/os-release", "PRETTY_NAME", '=')),
    ];
    available(facts.into_iter())
}

/// The versions of all programs that are installed, and of the crates.
pub fn versions() -> BTreeMap<String, String> {
    let websocat = websocat::program().ok();
    let programs = PROGRAMS
        .iter()
        .map(|(name, command)| (*name, version(command)));
    let crates = CRATES
        .iter()
        .map(|name| (*name, locked_version(LOCK, name)));
    let others = [
        (
            "aggligator",
            aggligator::program()
                .ok()
                .and_then(|_| locked_version(AGGLIGATOR_LOCK, "aggligator")),
        ),
        // All members of the workspace have the same version.
        ("pve-tunnel", Some(env!("CARGO_PKG_VERSION").to_owned())),
        (
            "websocat",
            websocat.and_then(|program| version(&[program.to_str()?, "--version"])),
        ),
    ];
    available(programs.chain(crates).chain(others))
}

pub fn today() -> String {
    let day = output(&["date", "-u", "+%F"]).unwrap();
    day.trim().to_owned()
}

fn available<'a>(
    facts: impl Iterator<Item = (&'a str, Option<String>)>,
) -> BTreeMap<String, String> {
    facts
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

fn memory() -> Option<String> {
    let total = value("/proc/meminfo", "MemTotal", ':')?;
    let kib: f64 = total.strip_suffix(" kB")?.parse().ok()?;
    Some(format!("{:.0} GiB", kib / f64::from(1 << 20)))
}

/// The first value of a key in a file with one key and value per line.
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

/// The first word of a command's output that looks like a version: `socat by … socat version
/// 1.7.4.4 on …`.
fn version(command: &[&str]) -> Option<String> {
    let output = output(command)?;
    let is_version =
        |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    output
        .split_whitespace()
        .find(is_version)
        .map(str::to_owned)
}

/// What a command prints, including its standard error, to which stunnel prints its version.
fn output(command: &[&str]) -> Option<String> {
    let output = Command::new(command[0]).args(&command[1..]).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The version of a crate in Cargo.lock.
fn locked_version(lock: &str, name: &str) -> Option<String> {
    let (_, after) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    let (version, _) = after.split_once('"')?;
    Some(version.to_owned())
}
