//! The seam never opens a listener for clear text against the policy, or without privilege or
//! configured network; a checked answer of the listener passes the check again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::configuration::Configuration;
use pve_tunnel::seam::{Action, SeamInput, check_answer, decide};

fuzz_target!(|input: (Vec<u8>, String, String)| {
    let (content, text, answer) = input;
    if let Ok(input) = serde_json::from_str::<SeamInput>(&text) {
        if let Ok(Action::Listen { options }) = decide(&content, &input) {
            let configuration = Configuration::parse(&content).unwrap();
            if options["plane"] == "tcp" {
                assert!(!configuration.require_encryption);
                let network = input.direct["network"].as_str().unwrap_or_default();
                let configured = configuration.network(network).is_some();
                assert!(configured || input.allowed == Some(true));
            }
        }
    }
    let Ok(answer) = serde_json::from_str(&answer) else {
        return;
    };
    for operation in ["open", "forward", "stat", "close"] {
        if let Ok(checked) = check_answer(operation, &answer) {
            assert_eq!(check_answer(operation, &checked).as_ref(), Ok(&checked));
        }
    }
});
