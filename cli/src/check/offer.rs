//! What the target's worker offers besides the websocket.

use super::connector::{Connector, ConnectorError};
use super::finding::{Finding, Step};
use super::report::Report;
use super::tunnel::WORKER_TIMEOUT;
use pve_tunnel::capability::Capability;
use pve_tunnel::direct::message::shown_on_source;
use pve_tunnel::plane::MigrationType;
use serde_json::{Value, json};

/// What the target's seam offers.
#[derive(Default)]
pub(super) struct Offer {
    /// The configuration of the target has a mistake, so a migration would fail.
    pub(super) misconfigured: bool,
    pub(super) meter: bool,
}

/// Asks what the target offers, and reports it.
pub(super) fn offer(
    connector: &mut Connector,
    migration_type: MigrationType,
    report: &mut Report,
) -> Result<Offer, ConnectorError> {
    let hello = json!({
        "cmd": "query-disk-import",
        "direct": { "op": "hello", "protocol": 1, "version": env!("CARGO_PKG_VERSION") },
    });
    let answer = match connector.worker(&hello, WORKER_TIMEOUT) {
        Ok(answer) => answer,
        Err(ConnectorError::Refused(_)) => {
            report.add(Finding::worse(
                Step::Tunnel,
                "the target has no direct planes: pve-tunnel is missing, switched off or failing on that node",
                "install pve-tunnel on the target, and run 'pve-tunnel enable' there; 'pve-tunnel status' shows what is wrong",
            ));
            return Ok(Offer::default());
        }
        Err(error) => return Err(error),
    };
    let direct = answer.get("direct").unwrap_or(&Value::Null);
    let text = |name: &str| direct.get(name).and_then(Value::as_str);
    let version = text("version").unwrap_or("of an unknown version");
    if let Some(mistake) = text("misconfigured") {
        report.add(Finding::failed(
            Step::Tunnel,
            format!(
                "the configuration of the target has a mistake: {}",
                shown_on_source(mistake)
            ),
            "correct it on the target node: 'pve-tunnel config' shows the line",
        ));
        return Ok(Offer {
            misconfigured: true,
            ..Offer::default()
        });
    }
    let caps = direct.get("caps").and_then(Value::as_array);
    let names: Vec<&str> = caps
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let offered = match names.is_empty() {
        true => "no direct planes".to_owned(),
        false => names.join(", "),
    };
    report.add(Finding::ok(
        Step::Tunnel,
        format!("the target has pve-tunnel {version} and offers {offered}"),
    ));
    let withheld = direct.get("withheld").and_then(Value::as_object);
    for (name, reason) in withheld.into_iter().flatten() {
        // Others are not a reason for the plane of this migration.
        let known = Capability::from_name(name);
        let usable = match migration_type {
            MigrationType::Secure => known == Some(Capability::DirectTls),
            MigrationType::Insecure => known.is_some() && known != Some(Capability::DirectTls),
        };
        if usable {
            report.add(Finding::worse(
                Step::Tunnel,
                format!(
                    "the target withholds {name}: {}",
                    reason
                        .as_str()
                        .map_or("no reason given".to_owned(), shown_on_source)
                ),
                "see /etc/pve/remote-migration.cfg on the target, and the privileges of the token",
            ));
        }
    }
    let meter = direct.get("meter");
    Ok(Offer {
        misconfigured: false,
        meter: meter.is_some_and(|meter| *meter == json!(true) || *meter == json!(1)),
    })
}
