//! A configuration that requires encryption never selects clear text, and a network only selects what
//! it allows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::configuration::{Configuration, Selection, SelectionInput, select};
use pve_tunnel::plane::MigrationType;

fuzz_target!(|input: (Vec<u8>, String, u8, Option<String>)| {
    let (content, remote, migration_type, migration_network) = input;
    let Ok(configuration) = Configuration::parse(&content) else {
        return;
    };
    let migration_type = match migration_type % 3 {
        0 => None,
        1 => Some(MigrationType::Secure),
        _ => Some(MigrationType::Insecure),
    };
    let source = SelectionInput::Source {
        remote,
        migration_type,
        migration_network: migration_network.clone(),
    };
    if let Ok(Selection::Source(selected)) = select(&configuration, &source) {
        let insecure = selected.migration_type == MigrationType::Insecure;
        assert!(!(insecure && configuration.require_encryption));
        if let Some(requested) = migration_type {
            assert_eq!(selected.migration_type, requested);
        }
        if selected.configured {
            let id = selected.migration_network.unwrap();
            let network = configuration.network(&id).unwrap();
            assert!(network.allowed.contains(&selected.migration_type));
        }
    }
    let target = SelectionInput::Target {
        migration_type: MigrationType::Insecure,
        migration_network,
    };
    if select(&configuration, &target).is_ok() {
        assert!(!configuration.require_encryption);
    }
});
