//! A server cannot complete an upgrade without the key of the request, whatever it answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::websocket::{Request, upgrade};

fuzz_target!(|answer: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let request = Request::new("wss://node:8006/x", []).unwrap();
    let stream = tokio::io::join(answer, tokio::io::sink());
    assert!(runtime.block_on(upgrade(stream, &request)).is_err());
});
