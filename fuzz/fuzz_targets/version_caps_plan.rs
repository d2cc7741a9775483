//! No version reply and no dial turns `secure`, or a policy that requires encryption, into clear text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pve_tunnel::capability::parse_version;
use pve_tunnel::plan::{Dial, PlanInput, plan};
use pve_tunnel::plane::{MigrationType, Plane};

fuzz_target!(
    |input: (String, u8, u8, Option<String>, Vec<String>, Option<bool>)| {
        let (reply, flags, planes, migration_network, more_caps, dial) = input;
        let mut caps = more_caps;
        if let Ok(version) = parse_version(&reply) {
            caps.extend(version.capabilities.names().into_iter().map(str::to_owned));
        }
        let has = |bit: u8| flags & (1 << bit) != 0;
        for (bit, name) in ["insecure-remote", "direct-tls", "direct-tcp"]
            .iter()
            .enumerate()
        {
            if has(bit as u8) {
                caps.push((*name).to_owned());
            }
        }
        let input = PlanInput {
            migration_type: match has(3) {
                true => MigrationType::Insecure,
                false => MigrationType::Secure,
            },
            require_encryption: has(4),
            configured: has(5),
            migration_network,
            caps,
            tls_withheld: None,
            planes: [Plane::Websocket, Plane::Tls, Plane::Tcp, Plane::Qemu]
                .into_iter()
                .enumerate()
                .filter(|(bit, _)| planes & (1 << bit) != 0)
                .map(|(_, plane)| plane)
                .collect(),
            dial: dial.map(|ok| Dial {
                ok,
                ..Dial::default()
            }),
        };
        let Ok(plan) = plan(&input) else { return };
        let clear = |plane: Plane| matches!(plane, Plane::Tcp | Plane::Qemu);
        if clear(plan.plane) || clear(plan.offline) {
            assert_eq!(input.migration_type, MigrationType::Insecure);
            assert!(!input.require_encryption);
            assert!(
                plan.warnings
                    .iter()
                    .any(|warning| warning.contains("UNENCRYPTED"))
            );
        }
        assert_ne!(plan.offline, Plane::Qemu);
    }
);
