//! The speed of the planes, over forwards to the meter of the target.

use super::api::encoded;
use super::connector::{Connector, ConnectorError};
use super::folder::Folder;
use super::interrupt::Interrupt;
use super::measurement::{Direction, Measurement, Meter};
use super::rate::shown;
use super::report::{Finding, Report, Step};
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

/// Measures a plane in both directions, and returns what was found. A measurement that fails is a
/// finding, and no error.
pub(super) fn measure(
    forwards: &Forwards<'_>,
    connector: &mut Connector,
    plane: Plane,
    report: &mut Report,
) -> Result<Vec<Finding>, ConnectorError> {
    let Some(meter) = &forwards.meter else {
        return Ok(Vec::new());
    };
    let socket = match forwards.forward(connector, plane, meter) {
        Ok(socket) => socket,
        Err(ConnectorError::Refused(reason)) => return Ok(vec![not_measured(plane, &reason)]),
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
    let mut findings = Vec::new();
    for direction in [Direction::Sent, Direction::Received] {
        match meter.measure(direction) {
            Ok(measurement) => {
                findings.push(Finding::ok(Step::Speed, described(&measurement, seconds)));
                report.measurements.push(measurement);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Err(ConnectorError::Interrupted);
            }
            Err(error) => {
                let last = connector.log().pop().unwrap_or_default();
                findings.push(not_measured(plane, &format!("{error}; {last}")));
                break;
            }
        }
    }
    Ok(findings)
}

fn not_measured(plane: Plane, reason: &str) -> Finding {
    Finding::failed(
        Step::Speed,
        format!("plane '{}' does not transfer data: {reason}", plane.name()),
        "see the task log of the target",
    )
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
