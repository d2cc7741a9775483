//! Why a plane transfers no data: what failed on this node, or which process has ended. Data alone does not show
//! that: its connection breaks in each case.

use super::advice;
use super::connector::{Connector, ConnectorError};
use super::finding::{Finding, Step};
use super::route::Route;
use super::speed::Measured;
use super::tunnel::WORKER_TIMEOUT;
use pve_tunnel::plane::Plane;
use serde_json::json;

/// Finds the cause of a measurement that has failed for this reason. An error of the connector or of the worker is a
/// failure of the whole tunnel.
pub(super) fn find(
    connector: &mut Connector,
    route: Route,
    reason: String,
) -> Result<Measured, ConnectorError> {
    let failure = of(route, reason);
    if failure.is_local {
        return Ok(failure.into());
    }
    // The worker asks the listener for its counters.
    if route.has_listener {
        if let Some(why) = refusal(connector, "stat")? {
            return Ok(failure.of_target("the listener", &why).into());
        }
    }
    // Only a check uses the meter, so this is no failure of the plane.
    Ok(match refusal(connector, "meter")? {
        Some(why) => {
            let failure = failure.of_target("the meter", &why);
            let text = format!("{route} cannot be measured: {}", failure.reason);
            Finding::worse(Step::Speed, text, failure.advice).into()
        }
        None => failure.into(),
    })
}

/// A failure for this reason.
pub(super) fn of(route: Route, reason: String) -> Failure {
    Failure {
        route,
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

/// A route that transfers no data. Whether a migration would fail depends on the route that it would use, which is
/// negotiated after one websocket was measured.
pub(super) struct Failure {
    route: Route,
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

    /// `chosen`: the route that a migration would use, if that is known.
    pub(super) fn judged(self, chosen: Option<Route>) -> Finding {
        let Self {
            route,
            reason,
            advice,
            is_local,
        } = self;
        let text = format!("{route} does not transfer data: {reason}");
        match chosen {
            _ if is_local => Finding::failed(Step::Speed, text, advice),
            Some(chosen) if chosen == route => Finding::failed(Step::Speed, text, advice),
            None => Finding::worse(Step::Speed, text, advice),
            // The worker has just answered over the control connection.
            Some(chosen) => Finding::worse(
                Step::Speed,
                format!(
                    "{text}. A migration would not use it for guest data, which takes {chosen}. Its commands take another websocket, which works"
                ),
                match chosen.plane {
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

#[cfg(test)]
mod tests {
    use super::super::finding::Outcome;
    use super::*;

    #[test]
    fn a_failure_of_the_chosen_route_is_decisive() {
        let tls = Route::new(Plane::Tls, Some(8));
        let websocket = Route::new(Plane::Websocket, None);
        let lanes = Route::new(Plane::Websocket, Some(3));
        let (worse, decisive) = (Outcome::Worse, Outcome::Failed);
        for (failed, chosen, outcome, text) in [
            (
                tls,
                Some(Route::new(Plane::Tls, Some(1))),
                decisive,
                "'tls' does not transfer",
            ),
            (
                websocket,
                Some(websocket),
                decisive,
                "'websocket' does not transfer",
            ),
            (
                lanes,
                Some(lanes),
                decisive,
                "'websocket' with lanes does not transfer",
            ),
            (
                websocket,
                Some(lanes),
                worse,
                "which takes plane 'websocket' with lanes.",
            ),
            (websocket, Some(tls), worse, "which takes plane 'tls'."),
            (websocket, None, worse, "'websocket' does not transfer"),
        ] {
            let found = of(failed, "it was cut".to_owned()).judged(chosen);
            assert_eq!(found.outcome, outcome, "{found:?}");
            assert!(found.text.contains(text), "{found:?}");
        }
    }
}
