//! The connector's own requests to the worker: tickets, and the operations of the seam.

use super::channel::WorkerChannel;
use crate::connector::json_object::object;
use crate::direct::message::shown_on_source;
use crate::secret::Secret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::time::Duration;
use thiserror::Error;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// For the seam's answer. The worker may still be busy with the command before.
const SEAM_TIMEOUT: Duration = Duration::from_secs(15);

/// The worker's command by which a caller requests the state of a disk import. Requests to the seam are
/// an optional property of it, because every worker implements it.
pub(super) const QUERY_IMPORT: &str = "query-disk-import";

const NO_REASON: &str = "no reason given";

/// Why the worker did not do what was requested.
#[derive(Debug, Error)]
pub(in crate::connector) enum RequestError {
    #[error("the control connection has ended")]
    NoControl,
    #[error("no answer from the target within {0:?}")]
    TimedOut(Duration),
    /// The worker answered that it did not do it.
    #[error("{0}")]
    Refused(String),
    /// The worker may have done it or not.
    #[error("{0}")]
    Malformed(String),
}

/// Requests the status of the worker's disk import, and does not wait for the answer: the request
/// makes the worker learn the volume of an import that is over.
pub(in crate::connector) async fn request_import_status(worker: &WorkerChannel) {
    let request = json!({ "cmd": QUERY_IMPORT });
    worker.send(request.to_string().into_bytes()).await;
}

/// Requests a ticket for one connection. `ticket` holds the parameters of the forward: the target's
/// socket as `path`.
pub(in crate::connector) async fn request_ticket(
    worker: &WorkerChannel,
    ticket: &Map<String, Value>,
    limit: Duration,
) -> Result<Secret, RequestError> {
    let line = timeout(limit, worker.request(ticket_request(ticket)))
        .await
        .map_err(|_| RequestError::TimedOut(limit))?
        .ok_or(RequestError::NoControl)?;
    ticket_answer(&line)
}

fn ticket_request(ticket: &Map<String, Value>) -> Vec<u8> {
    let mut request = ticket.clone();
    request.insert("cmd".to_owned(), "ticket".into());
    Value::Object(request).to_string().into_bytes()
}

fn ticket_answer(line: &[u8]) -> Result<Secret, RequestError> {
    #[derive(Deserialize)]
    struct Answer {
        ticket: Option<Secret>,
    }
    let answer: Answer = worker_answer(line)?;
    let no_ticket = || RequestError::Refused(NO_REASON.to_owned());
    answer.ticket.ok_or_else(no_ticket)
}

/// Requests an operation of the seam on the target. A worker without a seam refuses the property and
/// continues.
pub(in crate::connector) async fn request_operation<T: DeserializeOwned>(
    worker: &WorkerChannel,
    operation: &Value,
) -> Result<T, RequestError> {
    #[derive(Deserialize)]
    struct Answer {
        direct: Value,
    }
    let request = json!({ "cmd": QUERY_IMPORT, "direct": operation });
    let line = timeout(
        SEAM_TIMEOUT,
        worker.request(request.to_string().into_bytes()),
    )
    .await
    .map_err(|_| RequestError::TimedOut(SEAM_TIMEOUT))?
    .ok_or(RequestError::NoControl)?;
    let line = Zeroizing::new(line);
    let answer: Answer = worker_answer(&line)?;
    object("answer", answer.direct).map_err(|error| RequestError::Malformed(error.to_string()))
}

/// The worker's answer, or its reason for refusing.
pub(super) fn worker_answer<T: DeserializeOwned>(line: &[u8]) -> Result<T, RequestError> {
    #[derive(Deserialize)]
    struct Verdict {
        #[serde(default)]
        success: Value,
        msg: Option<String>,
    }
    let malformed = || RequestError::Malformed("the answer is malformed".to_owned());
    let value: Value = serde_json::from_slice(line).map_err(|_| malformed())?;
    if !value.is_object() {
        return Err(malformed());
    }
    // By reference: the answer may hold a key, and a copy of it would not be wiped.
    let verdict = Verdict::deserialize(&value).map_err(|_| malformed())?;
    // True in Perl's sense: 1, "1" and true all occur.
    let success = match &verdict.success {
        Value::Bool(success) => *success,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty() && text != "0",
        _ => false,
    };
    if !success {
        let reason = verdict.msg.unwrap_or_else(|| NO_REASON.to_owned());
        return Err(RequestError::Refused(shown_on_source(&reason)));
    }
    object("answer", value).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_ticket_is_requested_with_the_parameters_of_the_forward() {
        let parameters = Map::from_iter([("path".to_owned(), "/run/y".into())]);
        let request: Value = serde_json::from_slice(&ticket_request(&parameters)).unwrap();
        assert_eq!(request, json!({ "cmd": "ticket", "path": "/run/y" }));
    }

    #[test]
    fn ticket_answers() {
        for good in [
            r#"{"success":1,"ticket":"T"}"#,
            r#"{"success":true,"ticket":"T"}"#,
        ] {
            assert_eq!(ticket_answer(good.as_bytes()).unwrap().reveal(), "T");
        }
        for (bad, reason) in [
            (r#"{"success":0,"ticket":"T","msg":"no"}"#, "no"),
            (r#"{"success":1}"#, "no reason given"),
            ("nonsense", "malformed"),
            (r#"[1,null,"T"]"#, "malformed"),
        ] {
            let error = ticket_answer(bad.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
