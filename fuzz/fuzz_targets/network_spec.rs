//! A migration network is a CIDR without host bits and not wider than /8, or a name that an interface
//! can have.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::network::{MAX_INTERFACE_LEN, Spec};

fuzz_target!(|text: &str| match Spec::parse(text) {
    Ok(Spec::Cidr(network)) => {
        assert!(network.prefix_len() >= 8);
        assert_eq!(network.trunc(), network);
    }
    Ok(Spec::Interface(name)) => {
        assert!((1..=MAX_INTERFACE_LEN).contains(&name.len()) && !name.contains(['/', ':']));
    }
    Err(_) => {}
});
