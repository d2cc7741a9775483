//! The plane of a migration, negotiated as a migration does.

use super::advice;
use super::connector::{Connector, ConnectorError};
use super::finding::{Finding, Step};
use super::report::Report;
use super::route::Route;
use super::speed::{self, Forwards, Measured};
use super::tunnel::Request;
use pve_tunnel::capability::VersionReply;
use pve_tunnel::plane::Plane;
use serde_json::{Value, json};
use std::time::Duration;

/// For the negotiation, as in a migration.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(120);

/// What a migration would use.
pub(super) struct Negotiated {
    pub(super) plane: Plane,
    /// The most lanes of a stream; none without lanes.
    lanes: Option<u16>,
}

impl Negotiated {
    pub(super) fn route(&self) -> Route {
        Route::new(self.plane, self.lanes)
    }

    /// Measures a plane with a listener. A direct plane with several lanes is measured with one, too.
    pub(super) fn measure(
        &self,
        forwards: &Forwards<'_>,
        connector: &mut Connector,
        report: &mut Report,
        measured: &mut Vec<Measured>,
    ) -> Result<(), ConnectorError> {
        if self.lanes.is_some() && self.plane != Plane::Websocket {
            measured.extend(speed::measure(
                forwards,
                connector,
                (self.plane, Some(1)),
                report,
            )?);
        }
        measured.extend(speed::measure(
            forwards,
            connector,
            (self.plane, self.lanes),
            report,
        )?);
        measured.extend(speed::compare_lanes(&report.measurements).map(Measured::from));
        Ok(())
    }
}

/// Negotiates the plane as a migration does. None if a migration would fail.
pub(super) fn negotiate(
    connector: &mut Connector,
    version: &VersionReply,
    request: &Request<'_>,
    report: &mut Report,
) -> Result<Option<Negotiated>, ConnectorError> {
    let mut data = serde_json::to_value(request.selection).unwrap_or_default();
    if let Some(members) = data.as_object_mut() {
        members.remove("reason");
        members.insert("caps".to_owned(), json!(version.capabilities.names()));
        members.insert("planes".to_owned(), json!(["tls", "tcp"]));
        members.insert("api".to_owned(), request.websocket(""));
    }
    let answer = match connector.control("direct", &data, DIRECT_TIMEOUT) {
        Ok(answer) => answer,
        Err(ConnectorError::Refused(reason)) => {
            let advice = advice::for_listener(&reason);
            report.add(Finding::failed(Step::Tunnel, reason, advice));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let plan = answer.get("plan").unwrap_or(&Value::Null);
    for warning in plan
        .get("warnings")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let warning = warning.as_str().unwrap_or_default();
        let advice = match warning.contains("CLEAR TEXT") {
            true => "use --type secure, unless the network is private and trusted from end to end",
            false => advice::for_listener(warning),
        };
        report.add(Finding::worse(Step::Tunnel, warning, advice));
    }
    let name = plan
        .get("plane")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let reason = plan
        .get("reason")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let direct = answer.get("direct").filter(|direct| direct.is_object());
    let endpoint = match direct {
        Some(direct) => {
            let text = |member: &str| {
                direct
                    .get(member)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let port = direct.get("port").map_or(String::new(), Value::to_string);
            let to = match text("plane") {
                "websocket" => "through the target's API at",
                _ => "to",
            };
            format!(" {to} {} port {port}, {}", text("address"), text("cipher"))
        }
        None => " through the target's API".to_owned(),
    };
    report.add(Finding::ok(
        Step::Tunnel,
        format!("guest data would use plane '{name}'{endpoint}: {reason}"),
    ));
    if direct.is_some() && name != Plane::Websocket.name() {
        report.add(Finding::ok(
            Step::Tunnel,
            "packets of full size reach the target, and those of the target this node",
        ));
    }
    let lanes = direct.and_then(|direct| direct.get("lanes")?.as_u64());
    Ok(serde_json::from_value(json!(name))
        .ok()
        .map(|plane| Negotiated {
            plane,
            lanes: lanes
                .and_then(|lanes| u16::try_from(lanes).ok())
                .filter(|lanes| *lanes > 1),
        }))
}
