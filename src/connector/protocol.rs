//! What is said on standard input: the protocol of `proxmox-websocket-tunnel`.
//!
//! A control command is `{"control":true,"cmd":…,"data":{…}}`.
//!
//! | line | `data` | answer |
//! |---|---|---|
//! | `connect` | `url`, `headers`, `fingerprint`? | none: the next line's says if there is no connection |
//! | `forward` | the same, `unix`, `ticket` | one line |
//! | `direct` | what is wished, see [`Wish`] | the plan, or why there is none |
//! | `finish` | | the record of what went over the forwards |
//! | any JSON object without `control` | | the worker's, which gets the line as it is |

use super::control::Control;
use super::negotiation::Wish;
use crate::secret::Secret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// For the worker to answer, which may still be busy with the command before.
const ASK_TIMEOUT: Duration = Duration::from_secs(15);

/// The worker's command by which a caller hears how the import of a disk goes, and whose clothes the
/// seam's requests wear.
const QUERY_IMPORT: &str = "query-disk-import";

const NO_REASON: &str = "no reason given";

/// A line that was understood.
#[derive(Debug)]
pub(super) enum Command {
    /// Open the control connection.
    Connect(TargetData),
    /// Listen on a local socket for a socket of the target.
    Forward(ForwardData),
    /// Decide which plane the forwards take.
    Direct(Wish),
    /// Nothing more will be forwarded.
    Finish,
    /// Not for us: the worker's.
    Pass,
}

/// Where and how to open websockets.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct TargetData {
    /// The URL; with a ticket in it for the control connection.
    pub(super) url: Secret,
    /// HTTP headers for the upgrade, the API token among them.
    #[serde(default)]
    pub(super) headers: Vec<(String, Secret)>,
    /// The pinned fingerprint, if any.
    #[serde(default)]
    pub(super) fingerprint: Option<String>,
}

/// A forward.
#[derive(Debug, Deserialize)]
pub(super) struct ForwardData {
    /// The URL, to which each connection adds its ticket.
    #[serde(flatten)]
    pub(super) target: TargetData,
    /// The local socket's path.
    pub(super) unix: PathBuf,
    /// What the worker needs to make a ticket: the target's socket as `path`.
    pub(super) ticket: Map<String, Value>,
}

/// Why a line was not understood.
#[derive(Debug, Error)]
pub(super) enum ProtocolError {
    /// Not JSON, or JSON of the wrong shape. The line itself may hold credentials, so it is not
    /// repeated.
    #[error("invalid {what}: {cause}")]
    Invalid {
        /// What the line should have been.
        what: &'static str,
        /// The parser's words, which name places and types but no values.
        cause: String,
    },
    /// A control command of another version.
    #[error("unknown control command '{0}'")]
    UnknownControl(String),
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    control: bool,
    #[serde(default)]
    cmd: Option<String>,
    #[serde(default)]
    data: Option<Value>,
}

/// Reads one line.
pub(super) fn parse(line: &[u8]) -> Result<Command, ProtocolError> {
    let line = serde_json::from_slice(line).map_err(|error| invalid("command line", &error))?;
    let envelope: Envelope = object("command line", line)?;
    if !envelope.control {
        return Ok(Command::Pass);
    }
    let data = envelope.data.unwrap_or(Value::Null);
    match envelope.cmd.as_deref().unwrap_or_default() {
        "connect" => object("connect command", data).map(Command::Connect),
        "forward" => object("forward command", data).map(Command::Forward),
        "direct" => object("direct command", data).map(Command::Direct),
        "finish" => Ok(Command::Finish),
        other => Err(ProtocolError::UnknownControl(
            other.chars().take(64).collect(),
        )),
    }
}

/// Reads a JSON object. serde alone would take an array for one, its elements for the fields in
/// order.
fn object<T: DeserializeOwned>(what: &'static str, value: Value) -> Result<T, ProtocolError> {
    if !value.is_object() {
        let cause = "not a JSON object".to_owned();
        return Err(ProtocolError::Invalid { what, cause });
    }
    serde_json::from_value(value).map_err(|error| invalid(what, &error))
}

/// serde's messages quote values of the wrong type, and a value may be a token in the wrong place:
/// only the category and the place are told.
fn invalid(what: &'static str, error: &serde_json::Error) -> ProtocolError {
    use serde_json::error::Category;
    let message = error.to_string();
    let cause = match error.classify() {
        Category::Data if message.starts_with("missing field") => message,
        Category::Data => "a field has the wrong type".to_owned(),
        Category::Syntax | Category::Eof | Category::Io => {
            format!(
                "not JSON (line {}, column {})",
                error.line(),
                error.column()
            )
        }
    };
    ProtocolError::Invalid { what, cause }
}

/// The answer to a command that went well, with what else there is to say.
pub(super) fn success(mut answer: Value) -> Vec<u8> {
    answer["success"] = true.into();
    answer.to_string().into_bytes()
}

/// The answer to a command that did not.
pub(super) fn failure(message: impl ToString) -> Vec<u8> {
    json!({ "success": false, "msg": message.to_string() })
        .to_string()
        .into_bytes()
}

/// The worker's command for a ticket, with what the forward said about it.
pub(super) fn ticket_request(ticket: &Map<String, Value>) -> Vec<u8> {
    let mut request = ticket.clone();
    request.insert("cmd".to_owned(), "ticket".into());
    Value::Object(request).to_string().into_bytes()
}

/// The ticket in the worker's answer, or its reason for giving none.
pub(super) fn ticket_answer(line: &[u8]) -> Result<Secret, String> {
    #[derive(Deserialize)]
    struct Answer {
        ticket: Option<Secret>,
    }
    let answer: Answer = worker_answer(line).map_err(|error| error.to_string())?;
    answer.ticket.ok_or_else(|| NO_REASON.to_owned())
}

/// Why the worker's seam did not do what it was asked for.
#[derive(Debug, Error)]
pub(super) enum AskError {
    #[error("the control connection is over")]
    NoControl,
    #[error("no answer from the target within {0:?}")]
    TimedOut(Duration),
    #[error("{0}")]
    Refused(String),
    /// It may have been done, or not.
    #[error("{0}")]
    NotUnderstood(String),
}

/// Whether a line for the worker asks how the import of a disk goes.
pub(super) fn is_about_an_import(line: &[u8]) -> bool {
    let envelope = serde_json::from_slice::<Envelope>(line);
    envelope.is_ok_and(|envelope| envelope.cmd.as_deref() == Some(QUERY_IMPORT))
}

/// Asks the seam on the target, in the clothes of a command that every worker knows: one without a
/// seam refuses the parameter and goes on.
pub(super) async fn ask<T: DeserializeOwned>(
    control: &Control,
    direct: &Value,
) -> Result<T, AskError> {
    #[derive(Deserialize)]
    struct Answer {
        direct: Value,
    }
    let request = json!({ "cmd": QUERY_IMPORT, "direct": direct });
    let line = timeout(ASK_TIMEOUT, control.ask(request.to_string().into_bytes()))
        .await
        .map_err(|_| AskError::TimedOut(ASK_TIMEOUT))?
        .ok_or(AskError::NoControl)?;
    let line = Zeroizing::new(line);
    let answer: Answer = worker_answer(&line)?;
    object("answer", answer.direct).map_err(|error| AskError::NotUnderstood(error.to_string()))
}

/// What the worker answered, or its reason for refusing.
fn worker_answer<T: DeserializeOwned>(line: &[u8]) -> Result<T, AskError> {
    #[derive(Deserialize)]
    struct Verdict {
        #[serde(default)]
        success: Value,
        msg: Option<String>,
    }
    let not_understood = || AskError::NotUnderstood("the answer is not understood".to_owned());
    let value: Value = serde_json::from_slice(line).map_err(|_| not_understood())?;
    if !value.is_object() {
        return Err(not_understood());
    }
    // By reference: the answer may hold a key, and a copy of it would not be wiped.
    let verdict = Verdict::deserialize(&value).map_err(|_| not_understood())?;
    // Perl's idea of truth: 1, "1" and true are all seen.
    let success = match &verdict.success {
        Value::Bool(success) => *success,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty() && text != "0",
        _ => false,
    };
    if !success {
        let reason = verdict.msg.unwrap_or_else(|| NO_REASON.to_owned());
        return Err(AskError::Refused(reason));
    }
    object("answer", value).map_err(|_| not_understood())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_stock_lines_are_understood() {
        let connect = br#"{"control":true,"cmd":"connect","data":{"url":"wss://n:8006/x?ticket=T&socket=S","headers":[["Authorization","PVEAPIToken=a"]],"fingerprint":"AA"}}"#;
        let Command::Connect(target) = parse(connect).unwrap() else {
            panic!("not connect")
        };
        assert_eq!(target.headers[0].1.reveal(), "PVEAPIToken=a");
        let forward = br#"{"control":true,"cmd":"forward","data":{"url":"wss://n:8006/x?socket=S&","headers":[],"unix":"/run/x","ticket":{"path":"/run/y"}}}"#;
        let Command::Forward(forward) = parse(forward).unwrap() else {
            panic!("not forward")
        };
        assert_eq!(forward.target.fingerprint, None);
        let request: Value = serde_json::from_slice(&ticket_request(&forward.ticket)).unwrap();
        assert_eq!(request, json!({ "cmd": "ticket", "path": "/run/y" }));
        assert!(matches!(
            parse(br#"{"cmd":"version"}"#).unwrap(),
            Command::Pass
        ));
    }

    #[test]
    fn what_is_wrong_is_said_without_repeating_a_secret() {
        let cases: &[(&[u8], &str)] = &[
            (b"{", "not JSON"),
            (b"[]", "invalid command line"),
            (
                br#"{"control":true,"cmd":"dance"}"#,
                "unknown control command 'dance'",
            ),
            (br#"{"control":true}"#, "unknown control command ''"),
            (br#"{"control":true,"cmd":"connect"}"#, "not a JSON object"),
            (
                br#"{"control":true,"cmd":"connect","data":{}}"#,
                "missing field `url`",
            ),
            (
                br#"{"control":true,"cmd":"connect","data":{"url":"u","headers":"hunter2"}}"#,
                "wrong type",
            ),
            (
                br#"{"control":true,"cmd":"forward","data":{"url":"hunter2","unix":"/x"}}"#,
                "missing field `ticket`",
            ),
        ];
        for (line, expected) in cases {
            let message = parse(line).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
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
            ("nonsense", "not understood"),
            (r#"[1,null,"T"]"#, "not understood"),
        ] {
            assert!(ticket_answer(bad.as_bytes()).unwrap_err().contains(reason));
        }
    }
}
