//! The version of Proxmox VE at the target: whether a migration to it is possible, and supported.

use super::finding::{Finding, Step};
use crate::text::cut;
use std::ops::RangeInclusive;

/// The first release with remote migration: qemu-server 7.2-9 and pve-container 4.3-4 have the API calls
/// `mtunnel` and `mtunnelwebsocket`, and Proxmox VE 7.3 contains later versions of both.
const FIRST: (u32, u32) = (7, 3);

/// The major versions for which pve-tunnel is built and tested.
const SUPPORTED: RangeInclusive<u32> = 8..=9;

/// Longest version that is shown, in characters. The target can send any text.
const MAX_SHOWN: usize = 40;

/// What a version means for a migration to the target.
pub(super) fn judged(version: &str) -> Finding {
    let version = &cut(version.to_owned(), MAX_SHOWN);
    let text = format!("the target runs Proxmox VE {version}");
    let Some(release) = release(version) else {
        return Finding::worse(
            Step::Api,
            format!("the target reports no version of Proxmox VE that is known: '{version}'"),
            "check that the host is a node of Proxmox VE 8 or 9: 'pveversion' there",
        );
    };
    if release < FIRST {
        Finding::failed(
            Step::Api,
            format!("{text}, which accepts no guests from other clusters"),
            "upgrade the target to Proxmox VE 8 or 9",
        )
    } else if release.0 < *SUPPORTED.start() {
        Finding::worse(
            Step::Api,
            format!("{text}, which pve-tunnel does not support"),
            "upgrade the target to Proxmox VE 8 or 9: see VERSIONS AND UPGRADES in pve-tunnel-first-migration(7)",
        )
    } else if release.0 > *SUPPORTED.end() {
        Finding::worse(
            Step::Api,
            format!(
                "{text}, which is newer than the versions that this pve-tunnel was tested with"
            ),
            "look for a newer version of pve-tunnel, and migrate a small guest first",
        )
    } else {
        Finding::ok(Step::Api, text)
    }
}

/// Major and minor version, as in `9.1.4` and, before Proxmox VE 8, `7.4-15`.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-']);
    let mut number = || parts.next()?.parse().ok();
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::Outcome;

    #[test]
    fn each_version_has_its_outcome() {
        #[rustfmt::skip] // One row a line.
        let table = [
            ("6.4-13", Outcome::Failed, "accepts no guests"),
            ("7.2-11", Outcome::Failed, "accepts no guests"),
            ("7.3-3", Outcome::Worse, "does not support"),
            ("7.4.15", Outcome::Worse, "does not support"),
            ("8.0.3", Outcome::Ok, "Proxmox VE 8.0.3"),
            ("9.1.4", Outcome::Ok, "Proxmox VE 9.1.4"),
            ("9.2.0~rc1", Outcome::Ok, "Proxmox VE 9.2"),
            ("10.0.1", Outcome::Worse, "newer"),
            ("unknown", Outcome::Worse, "'unknown'"),
            ("", Outcome::Worse, "no version"),
            (&"x".repeat(400), Outcome::Worse, "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'"),
            (&format!("9.1.{}", "x".repeat(100)), Outcome::Ok, "9.1.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."),
        ];
        for (version, outcome, text) in table {
            let finding = judged(version);
            assert_eq!(finding.outcome, outcome, "{version}");
            assert!(finding.text.contains(text), "{}", finding.text);
        }
    }
}
