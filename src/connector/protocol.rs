//! The lines on standard input and output: the protocol of `proxmox-websocket-tunnel`, extended.
//!
//! A control command is `{"control":true,"cmd":…,"data":{…}}`.
//!
//! | command | `data` | answer |
//! |---|---|---|
//! | `connect` | [`TargetData`] | none; the next command's answer reports a failed connection |
//! | `probe` | [`TargetData`] | the address that was reached, or why none was |
//! | `forward` | [`ForwardData`] | one line |
//! | `direct` | [`PlaneRequest`] | the plan, or why there is none |
//! | `finish` | [`FinishData`] | the record of the forwards |
//! | a JSON object without `control` | | the worker's answer; the worker gets the line unchanged |

use super::Options;
use super::json_object::{JsonError, object, parse_json};
use crate::configuration::default_dead_peer_timeout;
use crate::direct::{ForwardLanes, LaneSettings};
use crate::lanes::Compression;
use crate::lanes::DEFAULT_LANES;
use crate::plane::{MigrationType, Plane};
use crate::scalar;
use crate::secret::Secret;
use crate::tuning::{Buffer, Congestion, Settings};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Characters that are percent-encoded in a query value. pveproxy decodes percent-encoding only, and
/// truncates a value at a second `=`.
pub(super) const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The longest `id` of a control command, in bytes.
const MAX_ID: usize = 64;

/// A parsed line.
#[derive(Debug)]
pub(super) enum Command {
    /// Open the control connection.
    Connect(TargetData),
    /// Connect to the target and end the connection before a request.
    Probe(TargetData),
    /// Listen on a local socket that stands for a socket of the target.
    Forward(ForwardData),
    /// Decide which plane the forwards take.
    Direct(PlaneRequest),
    /// No forward will follow.
    Finish(FinishData),
    /// A line for the worker.
    Pass,
}

/// Where and how to open websockets.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct TargetData {
    /// The URL; for the control connection with its ticket.
    pub(super) url: Secret,
    /// HTTP headers for the upgrade, among them the API token.
    #[serde(default)]
    pub(super) headers: Vec<(String, Secret)>,
    /// The pinned fingerprint, if any.
    #[serde(default)]
    pub(super) fingerprint: Option<String>,
}

impl TargetData {
    /// For websockets to a socket of the target, from a URL that ends in `?`. Each of them adds its ticket.
    pub(super) fn of_socket(&self, path: &str) -> Self {
        let path = utf8_percent_encode(path, QUERY_VALUE);
        Self {
            url: format!("{}socket={path}&", self.url.reveal()).into(),
            headers: self.headers.clone(),
            fingerprint: self.fingerprint.clone(),
        }
    }
}

/// A forward.
#[derive(Debug, Deserialize)]
pub(super) struct ForwardData {
    /// The URL, to which each connection adds its ticket.
    #[serde(flatten)]
    pub(super) target: TargetData,
    /// The path of the local socket.
    pub(super) unix: PathBuf,
    /// The parameters of the worker's `ticket` command: the target's socket as `path`.
    pub(super) ticket: Map<String, Value>,
    /// What the caller expects the forward to carry in both directions together, in bytes.
    #[serde(default, deserialize_with = "scalar::deserialize_optional_number")]
    pub(super) size: Option<u64>,
    /// The most lanes of its streams, if these are fewer than those of the request for the plane.
    #[serde(default, deserialize_with = "scalar::deserialize_optional_number")]
    pub(super) lanes: Option<u16>,
    /// Those that a stream has even if they do not help; if absent, as the request.
    #[serde(default, deserialize_with = "scalar::deserialize_optional_number")]
    pub(super) first_lanes: Option<u16>,
}

impl ForwardData {
    pub(super) fn lanes(&self) -> ForwardLanes {
        ForwardLanes {
            lanes: self.lanes,
            first: self.first_lanes,
        }
    }
}

/// What the caller requests of the data plane, as `configuration::select` returns it, and the
/// data about the target that it has. Unknown keys are refused: a misspelt key must not count as its default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlaneRequest {
    #[serde(default)]
    pub(super) migration_type: MigrationType,
    /// As the operator wrote it: CIDR, interface or ID.
    #[serde(default)]
    pub(super) migration_network: Option<String>,
    /// The network is an ID, or comes from the configuration.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub(super) configured: bool,
    /// Where the target shall listen: CIDR, interface or ID of the target.
    #[serde(default)]
    pub(super) network: Option<String>,
    /// Where this node's end must lie for clear text.
    #[serde(default)]
    pub(super) source_network: Option<String>,
    /// Of the version reply, known and unknown.
    #[serde(default)]
    pub(super) caps: Vec<String>,
    /// What the caller allows besides the websocket; `qemu` only if it can start QEMU on TCP.
    #[serde(default)]
    pub(super) planes: Vec<Plane>,
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub(super) require_encryption: bool,
    /// Clear text to publicly routable addresses is allowed.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub(super) public: bool,
    /// Clear text through the default gateway is allowed.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub(super) gateway: bool,
    #[serde(
        default = "default_dead_peer_timeout",
        deserialize_with = "scalar::deserialize_time_limit"
    )]
    pub(super) dead_peer_timeout: Duration,
    /// The congestion control of connections that carry guest data; if absent, the option's.
    #[serde(default)]
    pub(super) congestion: Option<Congestion>,
    /// The size of their buffers; if absent, the option's.
    #[serde(default)]
    pub(super) buffer: Option<Buffer>,
    /// The most connections that carry one stream together; if absent, one, as in protocol 1, or as many
    /// websockets as is useful.
    #[serde(default, deserialize_with = "scalar::deserialize_optional_number")]
    pub(super) lanes: Option<u16>,
    /// Those that a stream has even if they do not help; if absent, one.
    #[serde(default, deserialize_with = "scalar::deserialize_optional_number")]
    pub(super) first_lanes: Option<u16>,
    /// The threads that serve them beside the connector's own one; if absent, a quarter of the cores.
    #[serde(default, deserialize_with = "scalar::deserialize_optional_number")]
    pub(super) threads: Option<u16>,
    /// How data is compressed; if absent, it is sent as it is.
    #[serde(default)]
    pub(super) compression: Compression,
    /// How to open websockets, with a URL that ends in `?`; if absent, there are no lanes through the API.
    #[serde(default)]
    pub(super) api: Option<TargetData>,
    /// From dialling the target's addresses to the end of the handshake with one of them.
    #[serde(
        default = "default_dial_timeout",
        deserialize_with = "scalar::deserialize_time_limit"
    )]
    pub(super) dial_timeout: Duration,
}

impl PlaneRequest {
    /// What is requested for the sockets of connections that carry guest data.
    pub(super) fn tuning(&self, options: &Options) -> Settings {
        Settings {
            congestion: self.congestion.unwrap_or(options.congestion),
            buffer: self.buffer.unwrap_or(options.buffer),
        }
    }

    /// The dead-peer limit for the seam, which accepts whole seconds only.
    pub(super) fn dead_peer_seconds(&self) -> u64 {
        let limit = self.dead_peer_timeout;
        limit.as_secs() + u64::from(limit.subsec_nanos() > 0)
    }

    /// How to open websockets for lanes through the API, unless each stream shall have one.
    pub(super) fn api_for_lanes(&self) -> Option<&TargetData> {
        self.api.as_ref().filter(|_| self.lanes != Some(1))
    }

    /// What is requested for the lanes of a stream.
    pub(super) fn lanes(&self) -> LaneSettings {
        LaneSettings::new(
            self.lanes.unwrap_or(DEFAULT_LANES),
            self.first_lanes.unwrap_or(DEFAULT_LANES),
            self.threads,
        )
    }
}

fn default_dial_timeout() -> Duration {
    Duration::from_secs(5)
}

/// How the caller ends the tunnel.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FinishData {
    /// The migration has failed, and the caller cleans up. Data on its way is of no use.
    #[serde(deserialize_with = "scalar::deserialize_flag")]
    pub(super) cleanup: bool,
}

/// Why a line was refused.
#[derive(Debug, Error)]
pub(super) enum ProtocolError {
    /// Not JSON, or JSON of the wrong shape.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A control command of another version.
    #[error("unknown control command {0}")]
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

/// Parses one line.
pub(super) fn parse(line: &[u8]) -> Result<Command, ProtocolError> {
    const LINE: &str = "command line";
    let envelope: Envelope = object(LINE, parse_json(LINE, line)?)?;
    if !envelope.control {
        return Ok(Command::Pass);
    }
    let data = envelope.data.unwrap_or(Value::Null);
    Ok(match envelope.cmd.as_deref().unwrap_or_default() {
        "connect" => Command::Connect(object("connect command", data)?),
        "probe" => Command::Probe(object("probe command", data)?),
        "forward" => Command::Forward(object("forward command", data)?),
        "direct" => Command::Direct(object("direct command", data)?),
        "finish" if data.is_null() => Command::Finish(FinishData::default()),
        "finish" => Command::Finish(object("finish command", data)?),
        other => return Err(ProtocolError::UnknownControl(scalar::shown(other))),
    })
}

/// The `id` of a control command, which its answer repeats. None if there is none, if it is longer
/// than [`MAX_ID`], or if the line is no control command.
pub(super) fn answer_id(line: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Identified {
        control: bool,
        id: String,
    }
    let command: Identified = serde_json::from_slice(line).ok()?;
    (command.control && command.id.len() <= MAX_ID).then_some(command.id)
}

/// The answer to a command that succeeded, with further members.
pub(super) fn success(mut answer: Value) -> Value {
    answer["success"] = true.into();
    answer
}

/// The answer to a command that failed.
pub(super) fn failure(message: impl ToString) -> Value {
    json!({ "success": false, "msg": message.to_string() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_lines_of_the_stock_caller_are_parsed() {
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
        assert_eq!(forward.ticket["path"], "/run/y");
        assert_eq!(forward.size, None);
        assert!(matches!(
            parse(br#"{"cmd":"version"}"#).unwrap(),
            Command::Pass
        ));
    }

    #[test]
    fn a_forward_may_have_a_size() {
        let line = |size: &str| {
            format!(
                r#"{{"control":true,"cmd":"forward","data":{{"url":"u","unix":"/x","ticket":{{}},"size":{size}}}}}"#
            )
        };
        for (size, expected) in [("null", None), ("0", Some(0)), (r#""17""#, Some(17))] {
            let Command::Forward(data) = parse(line(size).as_bytes()).unwrap() else {
                panic!("not forward")
            };
            assert_eq!(data.size, expected, "{size}");
        }
        for size in ["-1", "1.5", r#""1G""#, "[]"] {
            let error = parse(line(size).as_bytes()).unwrap_err().to_string();
            assert!(error.contains("invalid forward command"), "{size}: {error}");
        }
    }

    #[test]
    fn the_answer_to_a_control_command_repeats_its_id() {
        let long = format!(
            r#"{{"control":true,"cmd":"finish","id":"{}"}}"#,
            "x".repeat(65)
        );
        for (line, expected) in [
            (r#"{"control":true,"cmd":"finish","id":"7"}"#, Some("7")),
            (r#"{"control":true,"cmd":"unknown","id":"7"}"#, Some("7")),
            (r#"{"control":true,"cmd":"finish","id":7}"#, None),
            (r#"{"control":true,"cmd":"finish"}"#, None),
            (r#"{"cmd":"quit","id":"7"}"#, None),
            ("nonsense", None),
            (&long, None),
        ] {
            assert_eq!(answer_id(line.as_bytes()).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn finish_may_request_a_clean_up() {
        for (line, expected) in [
            (r#"{"control":true,"cmd":"finish"}"#, false),
            (r#"{"control":true,"cmd":"finish","data":{}}"#, false),
            (
                r#"{"control":true,"cmd":"finish","data":{"cleanup":1}}"#,
                true,
            ),
            (
                r#"{"control":true,"cmd":"finish","data":{"cleanup":true}}"#,
                true,
            ),
        ] {
            let Command::Finish(data) = parse(line.as_bytes()).unwrap() else {
                panic!("not finish")
            };
            assert_eq!(data.cleanup, expected, "{line}");
        }
    }

    #[test]
    fn mistakes_are_reported_without_repeating_a_secret() {
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
}
