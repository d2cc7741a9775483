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

    /// Has the connector serve a local socket that stands for the meter's.
    fn forward(
        &self,
        connector: &mut Connector,
        plane: Plane,
        meter: &str,
    ) -> Result<PathBuf, ConnectorError> {
        let local = self.folder.path().join(plane.name());
        let mut data = self
            .request
            .websocket(&format!("socket={}&", encoded(meter)));
        data["unix"] = json!(local);
        data["ticket"] = json!({ "path": meter });
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
    /// `chosen`: the plane that a migration would use, if that is known.
    pub(super) fn judged(self, chosen: Option<Plane>) -> Finding {
        match self {
            Self::Finding(finding) => finding,
            Self::Failure(failure) => failure.judged(chosen),
        }
    }
}

/// Measures a plane in both directions, and returns what was found. A measurement that fails is not an error.
pub(super) fn measure(
    forwards: &Forwards<'_>,
    connector: &mut Connector,
    plane: Plane,
    report: &mut Report,
) -> Result<Vec<Measured>, ConnectorError> {
    let Some(meter) = &forwards.meter else {
        return Ok(Vec::new());
    };
    let socket = match forwards.forward(connector, plane, meter) {
        Ok(socket) => socket,
        Err(ConnectorError::Refused(reason)) => return Ok(vec![cause::of(plane, reason).into()]),
        Err(error) => return Err(error),
    };
    let seconds = forwards.request.seconds;
    report.announce(&format!(
        "Plane '{}' is measured for {seconds} s in each direction.",
        plane.name()
    ));
    let meter = Meter {
        socket: &socket,
        plane: plane.name(),
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
                measured.push(cause::find(connector, plane, format!("{error}{cause}"))?);
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
    let growing = match measurement.is_growing {
        true if seconds < MAX_SECONDS => {
            format!(", still growing: --seconds {MAX_SECONDS} shows more")
        }
        true => ", still growing".to_owned(),
        false => String::new(),
    };
    let cpu = |cost: Option<f64>| cost.map_or("?".to_owned(), |cost| format!("{cost:.2}"));
    format!(
        "{}: {} {to}{growing}; CPU seconds for a GiB: {} here, {} at the target",
        measurement.plane,
        shown(measurement.rate * 1e6),
        cpu(measurement.source_cpu),
        cpu(measurement.target_cpu)
    )
}
