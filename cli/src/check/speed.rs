//! The speed of the planes, over forwards to the meter of the target.

use super::api::encoded;
use super::cause::{self, Failure};
use super::connector::{Connector, ConnectorError};
use super::finding::{Finding, Step};
use super::folder::Folder;
use super::interrupt::Interrupt;
use super::measurement::{Direction, Measurement, Meter};
use super::rate::shown;
use super::report::Report;
use super::route::Route;
use super::tunnel::{Request, WORKER_TIMEOUT};
use crate::arguments::MAX_SECONDS;
use pve_tunnel::plane::Plane;
use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// For the connector to serve a forward, which may include a request to the worker.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(20);

/// The meter of the target, and the local sockets that stand for it.
pub(super) struct Forwards<'a> {
    pub(super) request: &'a Request<'a>,
    interrupt: &'a Interrupt,
    folder: &'a Folder,
    /// The path of the meter's socket at the target.
    meter: Option<String>,
}

impl<'a> Forwards<'a> {
    pub(super) fn new(
        request: &'a Request<'a>,
        interrupt: &'a Interrupt,
        folder: &'a Folder,
    ) -> Self {
        Self {
            request,
            interrupt,
            folder,
            meter: None,
        }
    }

    /// Starts the meter at the target. A meter that does not start is a finding, and no error.
    pub(super) fn start_meter(
        &mut self,
        connector: &mut Connector,
    ) -> Result<Option<Finding>, ConnectorError> {
        let command = json!({ "cmd": "query-disk-import", "direct": { "op": "meter" } });
        match connector.worker(&command, WORKER_TIMEOUT) {
            Ok(answer) => {
                let path = answer.pointer("/direct/path").and_then(Value::as_str);
                self.meter = path.map(str::to_owned);
                Ok(None)
            }
            Err(ConnectorError::Refused(reason)) => Ok(Some(Finding::worse(
                Step::Speed,
                format!("nothing can be measured: {reason}"),
                "see the task log of the target",
            ))),
            Err(error) => Err(error),
        }
    }

    /// Has the connector serve a local socket that stands for the meter's, on so many lanes.
    fn forward(
        &self,
        connector: &mut Connector,
        (plane, lanes): (Plane, Option<u16>),
        meter: &str,
    ) -> Result<PathBuf, ConnectorError> {
        let name = match lanes {
            Some(lanes) => format!("{}-{lanes}", plane.name()),
            None => plane.name().to_owned(),
        };
        let local = self.folder.path().join(name);
        let mut data = self
            .request
            .websocket(&format!("socket={}&", encoded(meter)));
        data["unix"] = json!(local);
        data["ticket"] = json!({ "path": meter });
        data["lanes"] = json!(lanes);
        data["first_lanes"] = json!(lanes);
        connector.control("forward", &data, FORWARD_TIMEOUT)?;
        Ok(local)
    }
}

/// What the measurement of a plane has shown.
pub(super) enum Measured {
    Finding(Finding),
    Failure(Failure),
}

impl From<Finding> for Measured {
    fn from(finding: Finding) -> Self {
        Self::Finding(finding)
    }
}

impl From<Failure> for Measured {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Measured {
    /// `chosen`: the route that a migration would use, if that is known.
    pub(super) fn judged(self, chosen: Option<Route>) -> Finding {
        match self {
            Self::Finding(finding) => finding,
            Self::Failure(failure) => failure.judged(chosen),
        }
    }
}

/// Measures a plane in both directions, and returns what was found. A measurement that fails is not an error.
/// `lanes`: the number of lanes, if the plane has them.
pub(super) fn measure(
    forwards: &Forwards<'_>,
    connector: &mut Connector,
    (plane, lanes): (Plane, Option<u16>),
    report: &mut Report,
) -> Result<Vec<Measured>, ConnectorError> {
    let Some(meter) = &forwards.meter else {
        return Ok(Vec::new());
    };
    let route = Route::new(plane, lanes);
    let socket = match forwards.forward(connector, (plane, lanes), meter) {
        Ok(socket) => socket,
        Err(ConnectorError::Refused(reason)) => return Ok(vec![cause::of(route, reason).into()]),
        Err(error) => return Err(error),
    };
    let seconds = forwards.request.seconds;
    report.announce(&format!(
        "Plane '{}'{} is measured for {seconds} s in each direction.",
        plane.name(),
        lanes.map_or(String::new(), |lanes| format!(" with {}", counted(lanes)))
    ));
    let meter = Meter {
        socket: &socket,
        route,
        lanes,
        seconds,
        connector: connector.pid(),
        interrupt: forwards.interrupt,
    };
    let mut measured = Vec::new();
    for direction in [Direction::Sent, Direction::Received] {
        let lines = connector.log().count();
        match meter.measure(direction) {
            Ok(measurement) => {
                measured.push(Finding::ok(Step::Speed, described(&measurement, seconds)).into());
                report.measurements.push(measurement);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Err(ConnectorError::Interrupted);
            }
            Err(error) => {
                let cause = connector.log().failure(&socket, lines);
                let cause = cause.map_or(String::new(), |cause| format!("; {cause}"));
                measured.push(cause::find(connector, route, format!("{error}{cause}"))?);
                break;
            }
        }
    }
    Ok(measured)
}

fn described(measurement: &Measurement, seconds: f64) -> String {
    let to = match measurement.direction {
        Direction::Sent => "to the target",
        Direction::Received => "from the target",
    };
    let can_be_longer = seconds < MAX_SECONDS;
    let growing = match measurement.is_growing {
        true if can_be_longer => format!(", still growing: --seconds {MAX_SECONDS} shows more"),
        true => ", still growing".to_owned(),
        false if measurement.is_little() && can_be_longer => {
            format!(" in its first moments: --seconds {MAX_SECONDS} may show much more")
        }
        false => String::new(),
    };
    let cpu = |cost: Option<f64>| cost.map_or("?".to_owned(), |cost| format!("{cost:.2}"));
    let lanes = measurement.lanes;
    format!(
        "{}{}: {} {to}{growing}; CPU seconds for a GiB: {} here, {} at the target",
        measurement.plane,
        lanes.map_or(String::new(), |lanes| format!(", {}", counted(lanes))),
        shown(measurement.rate * 1e6),
        cpu(measurement.source_cpu),
        cpu(measurement.target_cpu)
    )
}

fn counted(lanes: u16) -> String {
    match lanes {
        1 => "1 lane".to_owned(),
        _ => format!("{lanes} lanes"),
    }
}

/// How much faster several lanes have to be, so that they count as faster.
const FASTER: f64 = 1.1;

/// Whether several lanes send faster than one. None if they were not compared.
pub(super) fn compare_lanes(measurements: &[Measurement]) -> Option<Finding> {
    let mut sent = measurements
        .iter()
        .filter(|each| each.direction == Direction::Sent)
        .filter_map(|each| Some((each.lanes?, each.rate)));
    let ((_, one), (lanes, several)) = (sent.next()?, sent.next()?);
    let factor = several / one;
    let text = match factor >= FASTER {
        true => format!(
            "{lanes} lanes are {factor:.1} times as fast as one: a migration opens more lanes while they help"
        ),
        false => {
            format!("{lanes} lanes are not faster than one: a migration continues with few of them")
        }
    };
    Some(Finding::ok(Step::Speed, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(lanes: Option<u16>, direction: Direction, rate: f64) -> Measurement {
        Measurement {
            plane: "tls".to_owned(),
            lanes,
            direction,
            bytes: 1,
            seconds: 1.0,
            rate,
            is_growing: false,
            source_cpu: None,
            target_cpu: None,
        }
    }

    #[test]
    fn several_lanes_are_compared_with_one_by_what_was_sent() {
        let measured = |one, several| {
            [
                measurement(None, Direction::Sent, 500.0),
                measurement(Some(1), Direction::Sent, one),
                measurement(Some(1), Direction::Received, 1.0),
                measurement(Some(8), Direction::Sent, several),
                measurement(Some(8), Direction::Received, 1.0),
            ]
        };
        for (one, several, expected) in [
            (30.0, 90.0, "8 lanes are 3.0 times as fast as one: "),
            (100.0, 111.0, "8 lanes are 1.1 times as fast as one: "),
            (100.0, 109.0, "8 lanes are not faster than one: "),
            (100.0, 50.0, "8 lanes are not faster than one: "),
        ] {
            let finding = compare_lanes(&measured(one, several)).map(|finding| finding.text);
            assert!(
                finding.is_some_and(|text| text.starts_with(expected)),
                "{expected}"
            );
        }
        assert_eq!(compare_lanes(&measured(1.0, 1.0)[..3]), None);
    }
}
