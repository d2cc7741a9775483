//! The seam on the target: what a worker does with a request about direct connections.
//!
//! [`decide`] is a pure function of the request and of the worker's state. It answers with one
//! [`Action`]; the worker's Perl side carries the action out and decides nothing.
//! [`check_answer`] checks what the listener answers before the worker sends it to the source.

mod answer;
mod fields;
mod meter;
mod request;

pub use fields::FieldError;
pub use meter::MeterOptions;

use crate::capability::Capability;
use crate::configuration::{
    Configuration, ConfigurationError, DEAD_PEER_TIMEOUT, TargetSelection, select_target,
};
use crate::direct::message::{MAX_SOCKET_PATH, is_socket_path};
use crate::direct::{HANDSHAKE_TIMEOUT, LANES_PROTOCOL, OLDEST_PROTOCOL, PROTOCOL};
use crate::lanes::Compression;
use crate::plan::{self, Node, Privilege};
use crate::plane::{MigrationType, Plane};
use crate::scalar;
use request::{DirectPlane, Open, Request};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use thiserror::Error;

/// Longest node name, in bytes.
const MAX_NODE: usize = 255;

/// A request and the worker's state. Unknown members are refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeamInput {
    /// The value of the property `direct`, as it arrived.
    pub direct: Value,
    /// The path of the configuration file, for messages.
    pub file: String,
    /// Why the configuration file could not be read; null if it was read or does not exist.
    #[serde(default)]
    pub unreadable: Option<String>,
    /// The name of this node.
    pub node: String,
    /// The user of the API that the worker runs for, for messages; null if unknown.
    #[serde(default)]
    pub user: Option<String>,
    /// Whether the user has the privilege of an earlier [`Action::Check`]; null if it was not checked.
    #[serde(default, deserialize_with = "optional_flag")]
    pub allowed: Option<bool>,
    /// The state of the listener.
    pub listener: ListenerState,
    /// The paths of the sockets that the worker has for this migration.
    #[serde(default)]
    pub sockets: Vec<String>,
    /// The path of the worker's own socket; null if it has none.
    #[serde(default)]
    pub socket: Option<String>,
    /// The state of the meter.
    #[serde(default)]
    pub meter: MeterState,
}

/// A boolean as Perl may write it. Null is not false here.
fn optional_flag<'de, D: Deserializer<'de>>(source: D) -> Result<Option<bool>, D::Error> {
    match Value::deserialize(source)? {
        Value::Null => Ok(None),
        value => scalar::deserialize_flag(value)
            .map(Some)
            .map_err(de::Error::custom),
    }
}

/// The state of a worker's listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerState {
    /// None was opened, or it was closed.
    None,
    /// It is running.
    Running,
    /// It has ended by itself.
    Ended,
}

/// The state of a worker's meter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MeterState {
    /// None was started.
    #[default]
    None,
    /// It is running.
    Running,
    /// It has ended.
    Ended,
}

/// What the worker does. As JSON, the member `do` names the action.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Action {
    /// Check a privilege of the user, then decide again with the result in `allowed`.
    Check {
        /// ACL path.
        path: String,
        /// Name of the privilege.
        privilege: String,
    },
    /// Answer the source.
    Reply {
        /// The answer.
        reply: Value,
    },
    /// Start a listener and answer with its first line. If the options have a `path`, register this
    /// socket.
    Listen {
        /// The options of the listener.
        options: Value,
    },
    /// Send a request to the listener and answer with its answer.
    Ask {
        /// The request, an object with `op`.
        request: Value,
    },
    /// Start a meter, unless it is running, register its socket, and answer with the options.
    Meter {
        /// Its socket and its limits.
        options: MeterOptions,
    },
    /// Close the listener and answer with its last report.
    Close,
}

/// Why the seam refuses a request.
#[derive(Debug, Error)]
pub enum SeamError {
    /// The request is not an object.
    #[error("'direct' is not an object")]
    NotObject,
    /// The request names no operation.
    #[error("'direct' has no 'op'")]
    NoOperation,
    /// An operation of another version.
    #[error("unknown operation '{operation}' (expected one of: {known})")]
    UnknownOperation {
        /// Its name, shortened.
        operation: String,
        /// The supported operations.
        known: &'static str,
    },
    /// A member of the request is missing or malformed.
    #[error("{operation}: {cause}")]
    Request {
        /// The operation.
        operation: String,
        /// Which member.
        cause: FieldError,
    },
    /// There already is a listener.
    #[error("a listener is already open")]
    AlreadyOpen,
    /// There is no listener.
    #[error("{0}: no listener is open")]
    NotOpen(&'static str),
    /// The source requests a protocol that this node does not support.
    #[error("protocol {0} is not supported, only {OLDEST_PROTOCOL} to {PROTOCOL}")]
    Protocol(u16),
    /// The configuration cannot be read, has a mistake, or does not allow the request.
    #[error("{0}")]
    Configuration(String),
    /// The user lacks a privilege.
    #[error("{what} is refused: {lacks}; the ID of a configured network needs none")]
    Privilege {
        /// What would need it.
        what: String,
        /// Which user lacks what.
        lacks: String,
    },
    /// The name of the node cannot be one.
    #[error("the name of this node is malformed")]
    Node,
    /// The worker has no such socket.
    #[error("socket {0} is not known here")]
    UnknownSocket(String),
    /// There is no place for a socket.
    #[error(
        "{0}: beside the worker's own socket, no other path of at most {MAX_SOCKET_PATH} bytes is possible"
    )]
    NoSocket(&'static str),
    /// Lanes need a newer protocol.
    #[error("open: plane 'websocket' needs protocol {LANES_PROTOCOL}")]
    NoLanes,
    /// The meter's time is over. A second one would make the limit of the first one useless.
    #[error("meter: the meter of this worker has ended; open another tunnel")]
    MeterEnded,
}

/// Decides what the worker does with a request. `content` is the configuration file, empty without one.
///
/// | operation | action |
/// |---|---|
/// | `hello` | reply with protocols and capabilities; a capability is withheld, with the reason, if the configuration or the user's privileges forbid it |
/// | `open` | listen, after the configuration and, for clear text or a network that is not configured, the user's privileges allow it |
/// | `forward` | ask the listener, if the socket is one of the worker's |
/// | `stat` | ask the listener |
/// | `meter` | start a meter, if none has ended yet |
/// | `close` | close the listener |
///
/// # Errors
/// One reason each, see [`SeamError`].
pub fn decide(content: &[u8], input: &SeamInput) -> Result<Action, SeamError> {
    let seam = Seam { content, input };
    match request::parse(&input.direct)? {
        Request::Hello => Ok(seam.hello()),
        Request::Open(open) => seam.open(&open),
        Request::Forward { path } => {
            seam.require_listener("forward")?;
            // The worker's own rule for tickets. The listener's own socket is one of them.
            let own = input.socket.as_deref().and_then(listener_socket);
            if !input.sockets.contains(&path) || own.as_ref() == Some(&path) {
                return Err(SeamError::UnknownSocket(scalar::shown(&path)));
            }
            let request = json!({ "op": "forward", "path": path });
            Ok(Action::Ask { request })
        }
        Request::Stat => {
            seam.require_listener("stat")?;
            let request = json!({ "op": "stat" });
            Ok(Action::Ask { request })
        }
        Request::Meter => match input.meter {
            MeterState::None | MeterState::Running => {
                let socket = input.socket.as_deref();
                let options = socket.and_then(MeterOptions::beside);
                let options = options.ok_or(SeamError::NoSocket("meter"))?;
                Ok(Action::Meter { options })
            }
            MeterState::Ended => Err(SeamError::MeterEnded),
        },
        Request::Close => {
            seam.require_listener("close")?;
            Ok(Action::Close)
        }
    }
}

/// Checks the listener's answer to `open`, `forward`, `stat` or `close`, and returns it with the known
/// members only.
///
/// # Errors
/// The first member that is missing or malformed.
pub fn check_answer(operation: &str, answer: &Value) -> Result<Value, FieldError> {
    answer::check(operation, answer)
}

struct Seam<'a> {
    content: &'a [u8],
    input: &'a SeamInput,
}

impl Seam<'_> {
    fn hello(&self) -> Action {
        let tls = Capability::DirectTls.name();
        let tcp = Capability::DirectTcp.name();
        let mut misconfigured = None;
        let withheld = match self.configuration() {
            Err(error) => {
                let reason = error.to_string();
                misconfigured = Some(reason.clone());
                BTreeMap::from([(tls, reason.clone()), (tcp, reason)])
            }
            Ok(configuration) => match self.clear_text_withheld(&configuration) {
                Err(check) => return check,
                Ok(reason) => reason.map(|reason| (tcp, reason)).into_iter().collect(),
            },
        };
        let caps: Vec<&str> = [tls, tcp]
            .into_iter()
            .filter(|name| !withheld.contains_key(name))
            .collect();
        let mut reply = json!({
            "protocol": PROTOCOL,
            "oldest": OLDEST_PROTOCOL,
            "caps": caps,
            "withheld": withheld,
            "meter": true,
            "compression": [Compression::Zstd],
            "websocket_lanes": true,
            "version": env!("CARGO_PKG_VERSION"),
        });
        // A policy that cannot be read may forbid this migration. Older sources ignore the member,
        // and see a target without direct planes.
        if let Some(reason) = misconfigured {
            reply["misconfigured"] = reason.into();
        }
        Action::Reply { reply }
    }

    /// Why clear text is not offered, or none if it is; or the privilege to be checked first.
    fn clear_text_withheld(&self, configuration: &Configuration) -> Result<Option<String>, Action> {
        let file = &self.input.file;
        if configuration.require_encryption {
            return Ok(Some(format!("{file} of this node requires encryption")));
        }
        let needed = plan::privileges(MigrationType::Insecure, None, false);
        let Some(privilege) = needed
            .iter()
            .find(|needed| needed.on.contains(&Node::Target))
        else {
            return Ok(None);
        };
        match self.input.allowed {
            None => Err(check(privilege)),
            Some(true) => Ok(None),
            Some(false) => {
                let mut networks = configuration.networks.iter();
                let allows =
                    networks.any(|network| network.allowed.contains(&MigrationType::Insecure));
                Ok((!allows).then(|| {
                    let lacks = self.lacks(privilege);
                    format!("{lacks}, and no network in {file} allows clear text")
                }))
            }
        }
    }

    fn open(&self, open: &Open) -> Result<Action, SeamError> {
        if self.input.listener == ListenerState::Running {
            return Err(SeamError::AlreadyOpen);
        }
        if !(OLDEST_PROTOCOL..=PROTOCOL).contains(&open.protocol) {
            return Err(SeamError::Protocol(open.protocol));
        }
        let (plane, migration_type, fingerprint) = match &open.plane {
            DirectPlane::Tls(pin) => (Plane::Tls, MigrationType::Secure, Some(pin.to_string())),
            DirectPlane::Tcp => (Plane::Tcp, MigrationType::Insecure, None),
            DirectPlane::Websocket => return self.open_socket(open),
        };
        let network = open.network.as_deref();
        let selected = self.select(migration_type, network)?;
        let needed = plan::privileges(migration_type, network, selected.configured);
        if let Some(privilege) = needed.first() {
            match self.input.allowed {
                None => return Ok(check(privilege)),
                Some(true) => {}
                Some(false) => {
                    return Err(SeamError::Privilege {
                        what: match network {
                            Some(network) if plane == Plane::Tls => {
                                format!("migration network '{network}'")
                            }
                            _ => "clear text".to_owned(),
                        },
                        lacks: self.lacks(privilege),
                    });
                }
            }
        }
        let mut options = self.listener_options(open, plane, &selected)?;
        options["network"] = json!(selected.network);
        options["fingerprint"] = json!(fingerprint);
        options["public"] = json!(selected.public);
        Ok(Action::Listen { options })
    }

    /// A listener behind the API, which has no network of its own and needs no privilege.
    fn open_socket(&self, open: &Open) -> Result<Action, SeamError> {
        if open.protocol < LANES_PROTOCOL {
            return Err(SeamError::NoLanes);
        }
        let selected = self.select(MigrationType::Secure, None)?;
        let socket = self.input.socket.as_deref();
        let path = socket.and_then(listener_socket);
        let mut options = self.listener_options(open, Plane::Websocket, &selected)?;
        options["path"] = json!(path.ok_or(SeamError::NoSocket("open"))?);
        Ok(Action::Listen { options })
    }

    /// What every listener needs.
    fn listener_options(
        &self,
        open: &Open,
        plane: Plane,
        selected: &TargetSelection,
    ) -> Result<Value, SeamError> {
        let node = &self.input.node;
        let valid = (1..=MAX_NODE).contains(&node.len())
            && node.bytes().all(|byte| byte.is_ascii_graphic());
        if !valid {
            return Err(SeamError::Node);
        }
        Ok(json!({
            "plane": plane,
            "protocol": open.protocol,
            "node": node,
            "hello_timeout": HANDSHAKE_TIMEOUT.as_secs(),
            "dead_peer_timeout": open.dead_peer_timeout.unwrap_or(DEAD_PEER_TIMEOUT.into()),
            "congestion": selected.congestion,
            "buffer": selected.buffer,
            "threads": selected.threads,
            "user": self.input.user,
        }))
    }

    fn require_listener(&self, operation: &'static str) -> Result<(), SeamError> {
        match self.input.listener {
            ListenerState::None => Err(SeamError::NotOpen(operation)),
            ListenerState::Running | ListenerState::Ended => Ok(()),
        }
    }

    fn configuration(&self) -> Result<Configuration, SeamError> {
        if let Some(reason) = &self.input.unreadable {
            return Err(SeamError::Configuration(scalar::one_line(reason)));
        }
        Configuration::parse(self.content).map_err(|error| self.in_file(&error))
    }

    fn select(
        &self,
        migration_type: MigrationType,
        migration_network: Option<&str>,
    ) -> Result<TargetSelection, SeamError> {
        select_target(&self.configuration()?, migration_type, migration_network)
            .map_err(|error| self.in_file(&error))
    }

    /// A mistake in the file is reported with the file's name.
    fn in_file(&self, error: &ConfigurationError) -> SeamError {
        use ConfigurationError::{Line, NotUtf8, TooLong};
        SeamError::Configuration(match error {
            Line { .. } | NotUtf8 { .. } | TooLong { .. } => {
                format!("{}, {error}", self.input.file)
            }
            _ => error.to_string(),
        })
    }

    fn lacks(&self, privilege: &Privilege) -> String {
        let user = match &self.input.user {
            Some(user) => format!("user {}", scalar::shown(user)),
            None => "the user of this tunnel".to_owned(),
        };
        format!(
            "{user} lacks {} on '{}'",
            privilege.privilege, privilege.path
        )
    }
}

fn check(privilege: &Privilege) -> Action {
    Action::Check {
        path: privilege.path.clone(),
        privilege: privilege.privilege.clone(),
    }
}

/// Where a listener behind the API has its socket.
fn listener_socket(worker: &str) -> Option<String> {
    socket_beside(worker, "lanes")
}

/// A path beside the worker's own socket. None if it would be too long.
fn socket_beside(socket: &str, name: &str) -> Option<String> {
    let path = format!("{socket}.{name}");
    is_socket_path(&path).then_some(path)
}
