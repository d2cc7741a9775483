//! The private key of an identity leaves no copy in memory and none in a file.

use pve_tunnel::tls::Identity;
use rcgen::KeyPair;
use std::collections::HashSet;
use std::fs::File;
use std::process::{self, Command};
use testing::role::in_own_process;
use testing::visit_writable_memory;

/// The bytes before the private value of a P-256 key in PKCS #8 (RFC 5208, RFC 5915): the version
/// and the header of the octet string.
const BEFORE: [u8; 5] = [0x02, 0x01, 0x01, 0x04, 0x20];

/// The bytes after it: the header of the public key.
const AFTER: [u8; 6] = [0xa1, 0x44, 0x03, 0x42, 0x00, 0x04];

const SECRET: usize = 32;

/// The private values of all serialised keys in `bytes`.
fn secrets(bytes: &[u8]) -> impl Iterator<Item = [u8; SECRET]> {
    bytes
        .windows(BEFORE.len() + SECRET + AFTER.len())
        .filter(|key| key.starts_with(&BEFORE) && key.ends_with(&AFTER))
        .map(|key| key[BEFORE.len()..][..SECRET].try_into().unwrap())
}

/// The private values of all serialised keys in the memory of this process.
fn secrets_in_memory() -> HashSet<[u8; SECRET]> {
    let mut found = HashSet::new();
    visit_writable_memory(process::id(), |bytes| found.extend(secrets(bytes))).unwrap();
    found
}

#[test]
fn the_serialised_key_is_wiped() {
    // Other tests create keys at the same time and do not wipe them. The search would find those.
    if !in_own_process(module_path!(), "the_serialised_key_is_wiped") {
        return;
    }
    let identities: Vec<Identity> = (0..8).map(|_| Identity::one_time().unwrap()).collect();
    assert!(secrets_in_memory().is_empty());
    drop(identities);

    // The search does find a key that is not wiped.
    let known = KeyPair::generate().unwrap();
    let secret = secrets(known.serialized_der()).next().unwrap();
    assert!(secrets_in_memory().contains(&secret));
}

#[test]
fn an_identity_is_made_without_a_file() {
    // The limit on descriptors applies to the whole process.
    if !in_own_process(module_path!(), "an_identity_is_made_without_a_file") {
        return;
    }
    let pid = format!("--pid={}", process::id());
    let limited = Command::new("prlimit").args([&pid, "--nofile=0"]).status();
    assert!(limited.unwrap().success());
    File::open("/dev/null").unwrap_err();
    Identity::one_time().unwrap();
}
