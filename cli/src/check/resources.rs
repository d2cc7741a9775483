//! The storages and bridges of the target that the migration would use.

use super::advice;
use super::api::{Api, ApiError, encoded};
use super::finding::{Finding, Step};
use super::guest::{Guest, Kind};
use super::id_map::IdMap;
use super::report::Report;
use super::target::is_true;
use serde_json::Value;

const GIB: f64 = (1_u64 << 30) as f64;

/// The HTTP status for a parameter that is not valid, such as a storage that does not exist.
const BAD_REQUEST: u16 = 400;

/// The HTTP status for a privilege that the token lacks, which is reported with the others.
const FORBIDDEN: u16 = 403;

/// Reports the state of each storage on the node. The disks of the guest that it would store must fit.
pub(super) fn check_storages(
    api: &Api,
    node: &str,
    (storages, map): (&[String], &IdMap),
    guest: Option<&Guest>,
    report: &mut Report,
) {
    for id in storages {
        let stored = |guest: &Guest| guest.disk_bytes(|here| map.target(here) == id);
        let disks = guest.filter(|_| map.is_certain()).map(stored);
        let path = format!("/nodes/{}/storage/{}/status", encoded(node), encoded(id));
        match api.get(&path) {
            Ok(answer) => report.add(judged(id, &answer.data, content(guest), disks)),
            Err(error) => report_failure(id, &error, report),
        }
    }
}

fn report_failure(id: &str, error: &ApiError, report: &mut Report) {
    report.add(match error.status() {
        Some(FORBIDDEN) => return,
        Some(BAD_REQUEST) => Finding::failed(
            Step::Resources,
            format!("storage '{id}' does not exist or is disabled at the target"),
            advice::STORAGE,
        ),
        _ => Finding::worse(
            Step::Resources,
            format!("the state of storage '{id}' cannot be read: {error}"),
            "check it on the target: 'pvesm status'",
        ),
    });
}

/// The types of content that the guest needs; without a guest, one of them is enough.
fn content(guest: Option<&Guest>) -> &'static [&'static str] {
    match guest.map(Guest::kind) {
        None => &["images", "rootdir"],
        Some(Kind::Lxc) => &["rootdir"],
        Some(Kind::Qemu) => &["images"],
    }
}

/// What the status of a storage means for disks of this size. The flag is false if that of some is not known.
fn judged(id: &str, status: &Value, content: &[&str], disks: Option<(u64, bool)>) -> Finding {
    let stored = status.get("content").and_then(Value::as_str);
    if !status.get("active").is_some_and(is_true) {
        return Finding::failed(
            Step::Resources,
            format!("storage '{id}' is not active on the target"),
            "see why: 'pvesm status' on the target",
        );
    }
    if !stored.is_some_and(|stored| stored.split(',').any(|each| content.contains(&each))) {
        return Finding::failed(
            Step::Resources,
            format!("storage '{id}' does not store {}", content.join(" or ")),
            format!(
                "name another storage, or add the content type '{}' to this one",
                content[0]
            ),
        );
    }
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / GIB);
    let free = status.get("avail").and_then(Value::as_u64);
    match (free, disks) {
        (Some(free), Some((disks, are_all_known))) if disks > free => Finding::worse(
            Step::Resources,
            format!(
                "storage '{id}' has {} free, and the disks of the guest have {}{}",
                gib(free),
                if are_all_known { "" } else { "at least " },
                gib(disks)
            ),
            "make room, or name another storage; with thin provisioning, only the data of the disks needs room",
        ),
        (Some(free), _) => Finding::ok(
            Step::Resources,
            format!("storage '{id}' is active, with {} free", gib(free)),
        ),
        (None, _) => Finding::ok(Step::Resources, format!("storage '{id}' is active")),
    }
}

/// Reports whether the bridges exist. The list contains only those that the token may use.
pub(super) fn check_bridges(api: &Api, node: &str, bridges: &[&str], report: &mut Report) {
    if bridges.is_empty() {
        return;
    }
    let path = format!("/nodes/{}/network?type=any_bridge", encoded(node));
    let listed = match api.get(&path) {
        Ok(answer) => answer.data,
        Err(error) => {
            return report.add(Finding::worse(
                Step::Resources,
                format!("the bridges of the target cannot be listed: {error}"),
                "check them on the target: 'ip link show type bridge'",
            ));
        }
    };
    for name in bridges {
        let is_listed = listed
            .as_array()
            .into_iter()
            .flatten()
            .any(|each| each.get("iface").and_then(Value::as_str) == Some(name));
        report.add(match is_listed {
            true => Finding::ok(Step::Resources, format!("bridge '{name}' exists")),
            false => Finding::failed(
                Step::Resources,
                format!(
                    "bridge '{name}' does not exist in the network configuration of the target"
                ),
                advice::BRIDGE,
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::check::finding::Outcome;
    use serde_json::json;

    #[test]
    fn the_status_of_a_storage_is_judged_for_the_guest() {
        let images: &[&str] = &["images"];
        let status = |active: u8, content: &str, avail: u64| json!({ "active": active, "content": content, "avail": avail });
        #[rustfmt::skip] // One row a line.
        let table = [
            (status(1, "iso,images", 3 << 30), images, None, Outcome::Ok, "'x' is active, with 3.0 GiB free"),
            (status(1, "images", 3 << 30), images, Some((3 << 30, true)), Outcome::Ok, "'x' is active"),
            (status(1, "images", 3 << 30), images, Some(((3 << 30) + 1, true)), Outcome::Worse, "3.0 GiB free, and the disks of the guest have 3.0"),
            (status(1, "images", 1 << 30), images, Some((2 << 30, false)), Outcome::Worse, "1.0 GiB free, and the disks of the guest have at least 2.0"),
            (status(0, "images", 3 << 30), images, None, Outcome::Failed, "'x' is not active"),
            (status(1, "rootdir", 1), images, None, Outcome::Failed, "'x' does not store images"),
            (status(1, "rootdir", 1 << 30), &["images", "rootdir"], None, Outcome::Ok, "1.0 GiB free"),
            (json!({ "active": 1, "content": "images" }), images, Some((1, true)), Outcome::Ok, "'x' is active"),
            (json!({}), images, None, Outcome::Failed, "'x' is not active"),
        ];
        for (status, content, disks, outcome, text) in table {
            let finding = judged("x", &status, content, disks);
            assert_eq!(finding.outcome, outcome, "{status}");
            assert!(finding.text.contains(text), "{status}: {}", finding.text);
        }
    }
}
