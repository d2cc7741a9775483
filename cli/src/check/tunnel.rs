//! A tunnel without a guest: the worker, its offer, the plan of a migration, and the path to the
//! listener.

use super::advice;
use super::api::{Api, encoded};
use super::connector::{self, Connector, ConnectorError};
use super::finding::{Finding, Step};
use super::folder::{self, EmptyGuest, Folder};
use super::interrupt::{Interrupt, Leftover};
use super::negotiation::negotiate;
use super::offer::offer;
use super::remote::Remote;
use super::report::Report;
use super::speed::{self, Forwards, Measured};
use super::target::is_free;
use pve_tunnel::capability::parse_version;
use pve_tunnel::configuration::SourceSelection;
use pve_tunnel::plane::Plane;
use serde_json::{Value, json};
use std::time::Duration;

/// For TCP connection, TLS handshake and upgrade of the control connection, and for the version reply.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(45);

/// For an answer of the worker.
pub(super) const WORKER_TIMEOUT: Duration = Duration::from_secs(30);

/// For the end of the tunnel.
const QUIT_TIMEOUT: Duration = Duration::from_secs(40);

/// What the tunnel is opened for.
pub(super) struct Request<'a> {
    pub(super) remote: &'a Remote,
    pub(super) node: &'a str,
    /// `qemu` or `lxc`.
    pub(super) kind: &'a str,
    pub(super) vmid: u32,
    pub(super) storages: &'a [String],
    pub(super) bridges: &'a [String],
    pub(super) selection: &'a SourceSelection,
    /// Of each measurement; 0 for none.
    pub(super) seconds: f64,
}

impl Request<'_> {
    fn api_path(&self) -> String {
        format!("/nodes/{}/{}/{}/mtunnel", self.node, self.kind, self.vmid)
    }

    /// The data of a websocket command, with this query.
    pub(super) fn websocket(&self, query: &str) -> Value {
        let (host, port) = (self.remote.url_host(), self.remote.port);
        let path = self.api_path();
        let token = self
            .remote
            .token
            .as_ref()
            .map_or("", |token| token.reveal());
        json!({
            "url": format!("wss://{host}:{port}/api2/json{path}websocket?{query}"),
            "headers": [["Authorization", token]],
            "fingerprint": self.remote.fingerprint,
        })
    }

    /// What is left if the check ends before it has removed the guest.
    fn leftover(&self) -> Leftover {
        let vmid = self.vmid;
        Leftover {
            text: format!(
                "The empty guest {vmid} may be left, which the next check of this target reports, too."
            ),
            removal: self.empty_guest().removal(),
        }
    }

    fn empty_guest(&self) -> EmptyGuest {
        EmptyGuest {
            host: self.remote.host.clone(),
            port: self.remote.port,
            node: self.node.to_owned(),
            kind: self.kind.to_owned(),
            vmid: self.vmid,
        }
    }
}

/// Opens a tunnel, checks and measures what a migration would use, and closes it.
pub(super) fn check(api: &Api, request: &Request<'_>, interrupt: &Interrupt, report: &mut Report) {
    // Only measurements have sockets.
    if let Some(text) = folder::too_long().filter(|_| request.seconds > 0.0) {
        return report.add(Finding::failed(Step::Tunnel, text, advice::SHORTER_TMPDIR));
    }
    report.announce(&format!(
        "A tunnel is opened: it creates the empty, locked guest {} on node {}, which is removed again at the end.",
        request.vmid, request.node
    ));
    let mut connector = match Connector::start(interrupt.clone()) {
        Ok(connector) => connector,
        Err(error) => {
            let text = error.to_string();
            let advice = "check that this command can be executed";
            return report.add(Finding::failed(Step::Tunnel, text, advice));
        }
    };
    let folder = match Folder::create(&request.empty_guest()) {
        Ok(folder) => folder,
        Err(error) => {
            connector.end();
            let text = format!("a temporary folder cannot be created: {error}");
            let advice = "check TMPDIR, or make room there";
            return report.add(Finding::failed(Step::Tunnel, text, advice));
        }
    };
    let form = [
        ("storages", request.storages.join(",")),
        ("bridges", request.bridges.join(",")),
    ];
    let form: Vec<_> = form
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .collect();
    if let Some(signal) = interrupt.signal() {
        connector.end();
        return report.interrupted_by(Step::Tunnel, signal.as_str());
    }
    // From the request on the guest exists, so it is not interrupted.
    interrupt.leaves(request.leftover());
    let opened = match api.post(&request.api_path(), &form) {
        Ok(answer) => Opened::from(&answer.data),
        Err(error) => {
            connector.end();
            let reason = error.detailed();
            let advice = advice::for_refused_request(&reason);
            let text = format!("the target refuses a tunnel: {reason}");
            report.add(Finding::failed(Step::Tunnel, text, advice));
            // It may have been created although the answer was lost.
            if error.is_lost_answer() && !check_removed(api, request, None, report) {
                folder.keep();
            }
            return interrupt.leaves_nothing();
        }
    };
    let mut forwards = Forwards::new(request, interrupt, &folder);
    let checked = checks(&mut connector, &opened, &mut forwards, report);
    match (checked, interrupt.signal()) {
        (Err(ConnectorError::Interrupted), Some(signal)) => {
            report.interrupted_by(Step::Tunnel, signal.as_str());
        }
        (Err(error), _) => {
            report.add(Finding::failed(
                Step::Tunnel,
                format!("the tunnel failed: {error}"),
                advice::for_failed_tunnel(&error),
            ));
            report.announce(&format!(
                "It is closed now, which takes up to {} s if the target does not answer.",
                (QUIT_TIMEOUT + connector::END_TIMEOUT).as_secs()
            ));
        }
        (Ok(()), _) => {}
    }
    if !close(api, connector, &opened, request, report) {
        folder.keep();
    }
    interrupt.leaves_nothing();
}

/// The answer to the request for a tunnel.
struct Opened {
    ticket: String,
    socket: String,
    /// The task of the worker.
    task: String,
}

impl From<&Value> for Opened {
    fn from(data: &Value) -> Self {
        let text = |name: &str| {
            let value = data.get(name).and_then(Value::as_str);
            value.unwrap_or_default().to_owned()
        };
        Self {
            ticket: text("ticket"),
            socket: text("socket"),
            task: text("upid"),
        }
    }
}

fn checks(
    connector: &mut Connector,
    opened: &Opened,
    forwards: &mut Forwards<'_>,
    report: &mut Report,
) -> Result<(), ConnectorError> {
    let request = forwards.request;
    let query = format!(
        "ticket={}&socket={}",
        encoded(&opened.ticket),
        encoded(&opened.socket)
    );
    connector.send_control("connect", &request.websocket(&query))?;
    let reply = connector.version(CONNECT_TIMEOUT)?;
    let version = match parse_version(&reply.to_string()) {
        Ok(version) => version,
        Err(error) => {
            let advice = "upgrade the node that the message names";
            report.add(Finding::failed(Step::Tunnel, error.to_string(), advice));
            return Ok(());
        }
    };
    report.add(Finding::ok(
        Step::Tunnel,
        format!("the worker answers, tunnel version {}", version.api),
    ));
    let offer = offer(connector, request.selection.migration_type, report)?;
    if offer.misconfigured {
        return Ok(());
    }
    let mut measured: Vec<Measured> = Vec::new();
    if offer.meter && request.seconds > 0.0 {
        measured.extend(forwards.start_meter(connector)?.map(Measured::from));
        // Forwards use the websocket until a plane is negotiated.
        let websocket = speed::measure(forwards, connector, (Plane::Websocket, None), report)?;
        measured.extend(websocket);
    } else if request.seconds > 0.0 {
        let missing = Finding::worse(
            Step::Speed,
            "nothing can be measured: the target has no meter, which belongs to pve-tunnel",
            "install pve-tunnel on the target, and run 'pve-tunnel enable' there",
        );
        measured.push(missing.into());
    }
    let negotiated = negotiate(connector, &version, request, report);
    let route = match &negotiated {
        Ok(Some(negotiated)) => Some(negotiated.route()),
        _ => None,
    };
    report.plane = route.map(|route| route.plane.name().to_owned());
    let result = match negotiated {
        Ok(Some(negotiated)) if negotiated.route().has_listener => {
            negotiated.measure(forwards, connector, report, &mut measured)
        }
        other => other.map(drop),
    };
    for each in measured {
        report.add(each.judged(route));
    }
    result
}

/// Removes the empty guest, and returns whether it is gone.
fn close(
    api: &Api,
    mut connector: Connector,
    opened: &Opened,
    request: &Request<'_>,
    report: &mut Report,
) -> bool {
    let closed = connector.quit(QUIT_TIMEOUT);
    connector.end();
    let not_closed = closed.err().map(|error| {
        // Stopping a worker that still waits for its connection removes the guest, too.
        let task = format!("/nodes/{}/tasks/{}", request.node, encoded(&opened.task));
        let stopped = match api.delete(&task) {
            Ok(_) => "it was stopped".to_owned(),
            Err(stop) => format!("it cannot be stopped: {stop}"),
        };
        let text =
            format!("the worker of the target did not close the tunnel ({error}); {stopped}");
        (text, advice::for_failed_tunnel(&error))
    });
    check_removed(api, request, not_closed, report)
}

/// How often the target is asked whether the guest is gone.
const REMOVAL_CHECKS: u32 = 10;

/// Reports and returns whether the empty guest is gone. `not_closed`: why its tunnel was not closed, and the advice.
fn check_removed(
    api: &Api,
    request: &Request<'_>,
    not_closed: Option<(String, &'static str)>,
    report: &mut Report,
) -> bool {
    let mut last = Ok(false);
    for _ in 0..REMOVAL_CHECKS {
        last = is_free(api, request.vmid);
        if !matches!(last, Ok(false)) {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    let is_gone = matches!(last, Ok(true));
    let vmid = request.vmid;
    let cause = not_closed
        .as_ref()
        .map_or(String::new(), |(cause, _)| format!("; {cause}"));
    report.add(match (last, not_closed) {
        (Ok(true), None) => Finding::ok(
            Step::Cleanup,
            format!("guest {vmid} was removed, and nothing is left at the target"),
        ),
        (Ok(true), Some((cause, advice))) => Finding::worse(
            Step::Cleanup,
            format!("guest {vmid} was removed, but {cause}"),
            advice,
        ),
        (Ok(false), _) => Finding::failed(
            Step::Cleanup,
            format!("the empty guest {vmid} is still at the target{cause}"),
            request.empty_guest().removal(),
        ),
        // The tunnel was closed, so the worker has removed it.
        (Err(error), None) => Finding::worse(
            Step::Cleanup,
            format!("it cannot be checked whether guest {vmid} was removed: {error}"),
            request.empty_guest().removal(),
        ),
        (Err(error), Some(_)) => Finding::failed(
            Step::Cleanup,
            format!("it is not known whether the empty guest {vmid} was removed: {error}{cause}"),
            request.empty_guest().removal(),
        ),
    });
    is_gone
}
