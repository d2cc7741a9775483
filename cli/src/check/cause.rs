//! Why a plane transfers no data: what failed on this node, or which process has ended. Data alone does not show
//! that: its connection breaks in each case.

use super::advice;
use super::connector::{Connector, ConnectorError};
use super::finding::{Finding, Step};
use super::speed::Measured;
use super::tunnel::WORKER_TIMEOUT;
use pve_tunnel::plane::Plane;
use serde_json::json;

/// Finds the cause of a measurement that has failed for this reason. An error of the connector or of the worker is a
/// failure of the whole tunnel.
pub(super) fn find(
    connector: &mut Connector,
    plane: Plane,
    reason: String,
) -> Result<Measured, ConnectorError> {
    let failure = of(plane, reason);
    if failure.is_local {
        return Ok(failure.into());
    }
    // The worker asks the listener for its counters. It has none for the websocket.
    if plane != Plane::Websocket {
        if let Some(why) = refusal(connector, "stat")? {
            return Ok(failure.of_target("the listener", &why).into());
        }
    }
    // Only a check uses the meter, so this is no failure of the plane.
    Ok(match refusal(connector, "meter")? {
        Some(why) => {
            let failure = failure.of_target("the meter", &why);
            let text = format!(
                "plane '{}' cannot be measured: {}",
                plane.name(),
                failure.reason
            );
            Finding::worse(Step::Speed, text, failure.advice).into()
        }
        None => failure.into(),
    })
}

/// A failure for this reason.
pub(super) fn of(plane: Plane, reason: String) -> Failure {
    Failure {
        plane,
        is_local: advice::for_this_node(&reason).is_some(),
        reason,
        advice: "see the task log of the target",
    }
}

/// Why the worker refuses an operation that its process carries out. None if it does not.
fn refusal(connector: &mut Connector, operation: &str) -> Result<Option<String>, ConnectorError> {
    let command = json!({ "cmd": "query-disk-import", "direct": { "op": operation } });
    match connector.worker(&command, WORKER_TIMEOUT) {
        Ok(_) => Ok(None),
        Err(ConnectorError::Refused(reason)) => Ok(Some(reason)),
        Err(error) => Err(error),
    }
}

/// A plane that transfers no data. Whether a migration would fail depends on the plane that it would use, which is
/// negotiated after the websocket was measured.
pub(super) struct Failure {
    plane: Plane,
    reason: String,
    advice: &'static str,
    /// The cause is on this node, where a migration would meet it, too.
    is_local: bool,
}

impl Failure {
    /// Of a process of the target, for which the worker has this reason.
    fn of_target(self, process: &str, why: &str) -> Self {
        Self {
            reason: format!(
                "{process}, a process of the target, has failed: {why} ({})",
                self.reason
            ),
            advice: advice::ENDED_AT_TARGET,
            ..self
        }
    }

    /// `chosen`: the plane that a migration would use, if that is known.
    pub(super) fn judged(self, chosen: Option<Plane>) -> Finding {
        let Self {
            plane,
            reason,
            advice,
            is_local,
        } = self;
        let text = format!("plane '{}' does not transfer data: {reason}", plane.name());
        match chosen {
            _ if is_local => Finding::failed(Step::Speed, text, advice),
            Some(chosen) if chosen == plane => Finding::failed(Step::Speed, text, advice),
            None => Finding::worse(Step::Speed, text, advice),
            // The worker has just answered over the control connection.
            Some(chosen) => Finding::worse(
                Step::Speed,
                format!(
                    "{text}. A migration would not use it for guest data, which takes plane '{}'. Its commands take another websocket, which works",
                    chosen.name()
                ),
                match chosen {
                    Plane::Tls => {
                        format!(
                            "a migration whose listener cannot be reached would use it: {advice}"
                        )
                    }
                    _ => advice.to_owned(),
                },
            ),
        }
    }
}
