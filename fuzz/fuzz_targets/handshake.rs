//! Without the session key no handshake succeeds, and the source accepts exactly one answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::direct::SessionKey;
use pve_tunnel::fuzzing::{challenge, respond};

/// Magic, protocol 1, nonce; then the status of a connected forward.
const HEAD: &[u8] = b"pvetun\0\x01";
const NONCE: usize = 32;

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let key = SessionKey::generate().unwrap();
    for protocol in [1, 2] {
        let mut stream = tokio::io::join(bytes, tokio::io::sink());
        assert_eq!(runtime.block_on(challenge(&mut stream, &key, protocol)), None);
    }

    let mut stream = tokio::io::join(bytes, tokio::io::sink());
    let accepted = runtime.block_on(respond(&mut stream, &key));
    let right = bytes.starts_with(HEAD) && bytes.get(HEAD.len() + NONCE) == Some(&0);
    assert_eq!(accepted, right);
});
