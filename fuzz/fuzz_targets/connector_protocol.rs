//! A line on the connector's standard input is parsed or refused. Only JSON objects are accepted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::fuzzing::connector_accepts;

fuzz_target!(|line: &[u8]| {
    if connector_accepts(line) {
        let value: serde_json::Value = serde_json::from_slice(line).unwrap();
        assert!(value.is_object());
    }
});
