//! The seam's answers: what is read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::direct::message::{Offer, Open, Registered, Stat};

fuzz_target!(|bytes: &[u8]| {
    let _ = serde_json::from_slice::<Offer>(bytes);
    if let Ok(registered) = serde_json::from_slice::<Registered>(bytes) {
        let text = serde_json::to_string(&registered).unwrap();
        assert_eq!(
            serde_json::from_str::<Registered>(&text).unwrap().number,
            registered.number
        );
    }
    if let Ok(open) = serde_json::from_slice::<Open>(bytes) {
        let text = serde_json::to_string(&open).unwrap();
        let again: Open = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }
    if let Ok(stat) = serde_json::from_slice::<Stat>(bytes) {
        let text = serde_json::to_string(&stat).unwrap();
        let again: Stat = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }
});
