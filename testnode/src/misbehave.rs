//! The faults that `--misbehave` enables, by name.

use std::str::FromStr;

use thiserror::Error;

/// Largest payload of one frame in bytes, in both directions, as in pveproxy.
pub(crate) const FRAME_LIMIT: usize = 131_072;

/// The text about faults at the end of `--help`.
pub(crate) const HELP: &str = "\
Faults. Without any, the relay is a correct websocket server: it applies backpressure in both
directions, it replies to a close frame when the UNIX side has sent everything, and when the UNIX
side closes it closes the connection (close_notify, FIN) as pveproxy does, without a close frame.

  pveproxy               no-close-frame, bare-fin, drop-buffer, silent-missing-socket and
                         swallow-bad-frames together: the measured behaviour of pveproxy
  no-close-frame         sends no close frame in reply to a close frame
  bare-fin               on a close frame, sends FIN without close_notify immediately; data that
                         the UNIX side has not sent yet is lost
  drop-buffer            reads from the client without backpressure; when the client disconnects
                         without a close frame, discards what the UNIX side has not received
  silent-missing-socket  sends no response to the upgrade if the UNIX socket does not exist
  swallow-bad-frames     after an invalid frame, keeps the connection open and discards all input
                         (without this fault: closes the connection with code 1002)
  truncate=BYTES         after BYTES of payload to the client, at the end of a frame, sends FIN
                         without close_notify and without a close frame (data connections)
  truncate-frame=BYTES   the same in the middle of a frame (data connections)
  small-frames=BYTES     sends frames of at most BYTES to the client
  fragment               sends every message to the client in three fragments, with pings between
  ping                   sends a ping before every message; the pong must carry the same payload
  close-frame            sends a close frame when the UNIX side closes
  slow-read=BYTES        reads BYTES per second from the client (data connections)
  slow-write=BYTES       writes BYTES per second to the client (data connections)
  stall-read             reads nothing from the client until SIGUSR1 (data connections)
  stall-write            writes nothing to the client until SIGUSR1 (data connections)
  refuse=STATUS:REASON   rejects the upgrade with this status line
  fail-next-id=REASON    answers GET /cluster/nextid with 500 and this reason; without a reason,
                         that of a lock that is not free
  fail-tunnel=REASON     answers POST mtunnel with 500 and this reason, and creates nothing
  slow-401               sends 401 after 3 s, as pveproxy does
  hang-handshake         accepts TCP connections and sends nothing

The prefix `control:` limits a fault to the command connection of a tunnel, and `data:` limits it to
the other connections. SIGUSR1 releases stalled connections; later connections do not stall.";

/// The connections that a fault applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Control,
    Data,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    Pveproxy,
    NoCloseFrame,
    BareFin,
    DropBuffer,
    SilentMissingSocket,
    SwallowBadFrames,
    Truncate(u64),
    TruncateFrame(u64),
    SmallFrames(usize),
    Fragment,
    Ping,
    CloseFrame,
    SlowRead(u64),
    SlowWrite(u64),
    StallRead,
    StallWrite,
    Refuse(u16, String),
    FailNextId(String),
    FailTunnel(String),
    Slow401,
    HangHandshake,
}

/// One fault of `--misbehave`, with its scope.
#[derive(Clone, Debug)]
pub(crate) struct Misbehaviour {
    scope: Scope,
    fault: Fault,
}

#[derive(Debug, Error)]
pub(crate) enum MisbehaviourError {
    #[error("no misbehaviour is called `{0}`, see --help")]
    Unknown(String),
    #[error("`{0}` needs a number above 0, as in {0}=65536")]
    Number(String),
    #[error("`{0}` needs a reason, as in {0}=no quorum")]
    Reason(String),
    #[error("`refuse` needs a status from 400 to 599 and a reason, as in refuse=500:no such guest")]
    Refusal,
}

impl FromStr for Misbehaviour {
    type Err = MisbehaviourError;

    fn from_str(text: &str) -> Result<Self, MisbehaviourError> {
        let (scope, rest) = match text.split_once(':') {
            Some(("control", rest)) => (Some(Scope::Control), rest),
            Some(("data", rest)) => (Some(Scope::Data), rest),
            _ => (None, text),
        };
        let (name, value) = rest
            .split_once('=')
            .map_or((rest, ""), |(name, value)| (name, value));
        let number = || {
            let parsed = value.parse::<u64>().ok().filter(|number| *number > 0);
            parsed.ok_or_else(|| MisbehaviourError::Number(name.to_owned()))
        };
        let (usual, fault) = match name {
            "pveproxy" => (Scope::All, Fault::Pveproxy),
            "no-close-frame" => (Scope::All, Fault::NoCloseFrame),
            "bare-fin" => (Scope::All, Fault::BareFin),
            "drop-buffer" => (Scope::All, Fault::DropBuffer),
            "silent-missing-socket" => (Scope::All, Fault::SilentMissingSocket),
            "swallow-bad-frames" => (Scope::All, Fault::SwallowBadFrames),
            "truncate" => (Scope::Data, Fault::Truncate(number()?)),
            "truncate-frame" => (Scope::Data, Fault::TruncateFrame(number()?)),
            "small-frames" => {
                let limit = usize::try_from(number()?).unwrap_or(FRAME_LIMIT);
                (Scope::All, Fault::SmallFrames(limit.min(FRAME_LIMIT)))
            }
            "fragment" => (Scope::All, Fault::Fragment),
            "ping" => (Scope::All, Fault::Ping),
            "close-frame" => (Scope::All, Fault::CloseFrame),
            "slow-read" => (Scope::Data, Fault::SlowRead(number()?)),
            "slow-write" => (Scope::Data, Fault::SlowWrite(number()?)),
            "stall-read" => (Scope::Data, Fault::StallRead),
            "stall-write" => (Scope::Data, Fault::StallWrite),
            "refuse" => (Scope::All, refusal(value)?),
            "fail-next-id" if value.is_empty() => {
                let reason = "cfs-lock 'file-guests' error: timeout".to_owned();
                (Scope::All, Fault::FailNextId(reason))
            }
            "fail-next-id" => (Scope::All, Fault::FailNextId(reason(name, value)?)),
            "fail-tunnel" => (Scope::All, Fault::FailTunnel(reason(name, value)?)),
            "slow-401" => (Scope::All, Fault::Slow401),
            "hang-handshake" => (Scope::All, Fault::HangHandshake),
            _ => return Err(MisbehaviourError::Unknown(name.to_owned())),
        };
        Ok(Self {
            scope: scope.unwrap_or(usual),
            fault,
        })
    }
}

fn refusal(value: &str) -> Result<Fault, MisbehaviourError> {
    let (status, reason) = value.split_once(':').ok_or(MisbehaviourError::Refusal)?;
    let status = status
        .parse::<u16>()
        .ok()
        .filter(|status| (400..600).contains(status));
    match status {
        Some(status) if is_reason(reason) => Ok(Fault::Refuse(status, reason.to_owned())),
        _ => Err(MisbehaviourError::Refusal),
    }
}

fn reason(name: &str, value: &str) -> Result<String, MisbehaviourError> {
    match is_reason(value) {
        true => Ok(value.to_owned()),
        false => Err(MisbehaviourError::Reason(name.to_owned())),
    }
}

/// Whether it can be a reason phrase.
fn is_reason(text: &str) -> bool {
    let is_clean = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    !text.is_empty() && text.bytes().all(is_clean)
}

/// The behaviour of one relayed connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behaviour {
    pub(crate) no_close_frame: bool,
    pub(crate) bare_fin: bool,
    pub(crate) drop_buffer: bool,
    pub(crate) silent_missing_socket: bool,
    pub(crate) swallow_bad_frames: bool,
    /// Number of payload bytes after which the relay sends FIN, and whether it does so within a
    /// frame.
    pub(crate) truncate: Option<(u64, bool)>,
    pub(crate) small_frames: Option<usize>,
    pub(crate) fragment: bool,
    pub(crate) ping: bool,
    pub(crate) close_frame: bool,
    /// Bytes per second.
    pub(crate) slow_read: Option<u64>,
    /// Bytes per second.
    pub(crate) slow_write: Option<u64>,
    pub(crate) stall_read: bool,
    pub(crate) stall_write: bool,
    /// Status and reason phrase of the response that rejects the upgrade.
    pub(crate) refuse: Option<(u16, String)>,
}

/// All faults that are enabled.
pub(crate) struct Misbehaviours(Vec<Misbehaviour>);

impl Misbehaviours {
    pub(crate) fn new(items: Vec<Misbehaviour>) -> Self {
        Self(items)
    }

    /// The reason why `GET /cluster/nextid` fails.
    pub(crate) fn fail_next_id(&self) -> Option<&str> {
        self.0.iter().find_map(|item| match &item.fault {
            Fault::FailNextId(reason) => Some(reason.as_str()),
            _ => None,
        })
    }

    /// The reason why `POST mtunnel` fails.
    pub(crate) fn fail_tunnel(&self) -> Option<&str> {
        self.0.iter().find_map(|item| match &item.fault {
            Fault::FailTunnel(reason) => Some(reason.as_str()),
            _ => None,
        })
    }

    pub(crate) fn slow_401(&self) -> bool {
        self.0.iter().any(|item| item.fault == Fault::Slow401)
    }

    pub(crate) fn hang_handshake(&self) -> bool {
        self.0.iter().any(|item| item.fault == Fault::HangHandshake)
    }

    /// The behaviour of the command connection (`control`) or of a data connection.
    pub(crate) fn of_connection(&self, control: bool) -> Behaviour {
        let mut behaviour = Behaviour::default();
        let other = if control { Scope::Data } else { Scope::Control };
        for item in self.0.iter().filter(|item| item.scope != other) {
            behaviour.add(&item.fault);
        }
        behaviour
    }
}

impl Behaviour {
    fn add(&mut self, fault: &Fault) {
        match fault {
            Fault::Pveproxy => {
                self.no_close_frame = true;
                self.bare_fin = true;
                self.drop_buffer = true;
                self.silent_missing_socket = true;
                self.swallow_bad_frames = true;
            }
            Fault::NoCloseFrame => self.no_close_frame = true,
            Fault::BareFin => self.bare_fin = true,
            Fault::DropBuffer => self.drop_buffer = true,
            Fault::SilentMissingSocket => self.silent_missing_socket = true,
            Fault::SwallowBadFrames => self.swallow_bad_frames = true,
            Fault::Truncate(bytes) => self.truncate = Some((*bytes, false)),
            Fault::TruncateFrame(bytes) => self.truncate = Some((*bytes, true)),
            Fault::SmallFrames(bytes) => self.small_frames = Some(*bytes),
            Fault::Fragment => self.fragment = true,
            Fault::Ping => self.ping = true,
            Fault::CloseFrame => self.close_frame = true,
            Fault::SlowRead(rate) => self.slow_read = Some(*rate),
            Fault::SlowWrite(rate) => self.slow_write = Some(*rate),
            Fault::StallRead => self.stall_read = true,
            Fault::StallWrite => self.stall_write = true,
            Fault::Refuse(status, reason) => self.refuse = Some((*status, reason.clone())),
            // These apply to the whole node.
            Fault::FailNextId(_) | Fault::FailTunnel(_) | Fault::Slow401 | Fault::HangHandshake => {
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Misbehaviour, Misbehaviours};

    fn parse(words: &[&str]) -> Misbehaviours {
        Misbehaviours::new(words.iter().map(|word| word.parse().unwrap()).collect())
    }

    #[test]
    fn a_fault_applies_to_its_connections_only() {
        let table = [
            // word, on control, on data
            ("truncate=100", false, true),
            ("control:truncate=100", true, false),
        ];
        for (word, on_control, on_data) in table {
            let faults = parse(&[word]);
            assert_eq!(
                faults.of_connection(true).truncate.is_some(),
                on_control,
                "{word}"
            );
            assert_eq!(
                faults.of_connection(false).truncate.is_some(),
                on_data,
                "{word}"
            );
        }
        let refusing = parse(&["data:refuse=500:no such guest"]);
        assert_eq!(refusing.of_connection(true).refuse, None);
        let refusal = refusing.of_connection(false).refuse;
        assert_eq!(refusal, Some((500, "no such guest".to_owned())));
        assert!(parse(&["pveproxy"]).of_connection(true).bare_fin);
    }

    #[test]
    fn invalid_faults_are_rejected() {
        for word in [
            "",
            "nonsense",
            "truncate",
            "truncate=0",
            "truncate=x",
            "refuse=200:fine",
            "refuse=500",
            "refuse=500:",
            "refuse=500:a\nb",
            "other:ping",
        ] {
            assert!(word.parse::<Misbehaviour>().is_err(), "{word:?}");
        }
    }
}
