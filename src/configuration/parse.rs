//! Parsing the file, in the syntax of Proxmox VE's section files: `type: ID` at the beginning of a
//! line, then `key value` lines that begin with white space, then an empty line.
//!
//! This parser is stricter than that of Proxmox VE, which ignores some mistakes with a warning,
//! such as a property after an empty line. They are errors here, because a policy that is ignored
//! does not protect guest data.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::{
    Configuration, ConfigurationError, DEAD_PEER_TIMEOUT, DEAD_PEER_TIMEOUTS, Host, Lines,
    MAX_FILE, MAX_LINE, MAX_SECTIONS, Network, POLICY_ID, id_mistake, is_id,
};
use crate::lanes::{Compression, LANES, THREADS};
use crate::network::Spec;
use crate::plane::MigrationType;
use crate::scalar;
use crate::tuning::{Buffer, Congestion};

type Parsed<T> = Result<T, ConfigurationError>;

pub(super) fn parse(content: &[u8]) -> Parsed<(Configuration, Lines)> {
    if content.len() > MAX_FILE {
        return Err(ConfigurationError::TooLong {
            bytes: content.len(),
        });
    }
    let mut reader = Reader::default();
    for (index, bytes) in content.split(|byte| *byte == b'\n').enumerate() {
        reader.line = index + 1;
        let text = line_text(bytes, reader.line)?;
        reader.take(text)?;
    }
    reader.end_section()?;
    Ok((reader.configuration, reader.lines))
}

/// One line as text, without CR LF, with which editors on other systems end lines.
fn line_text(bytes: &[u8], line: usize) -> Parsed<&str> {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if bytes.len() > MAX_LINE {
        let length = bytes.len();
        return mistake(
            line,
            format!("has {length} bytes, at most {MAX_LINE} are accepted"),
        );
    }
    let text = std::str::from_utf8(bytes).map_err(|_| ConfigurationError::NotUtf8 { line })?;
    if text.starts_with('\u{feff}') {
        return mistake(
            line,
            "begins with a byte order mark; save the file without one",
        );
    }
    match text.chars().find(|c| c.is_control() && *c != '\t') {
        Some('\0') => mistake(line, "has a NUL byte"),
        Some(_) => mistake(line, "has a control character"),
        None => Ok(text),
    }
}

fn mistake<T>(line: usize, mistake: impl Into<String>) -> Parsed<T> {
    let mistake = mistake.into();
    Err(ConfigurationError::Line { line, mistake })
}

/// The state of the parser: what has been read so far.
#[derive(Default)]
struct Reader {
    configuration: Configuration,
    /// The lines of the sections that are complete.
    lines: Lines,
    line: usize,
    /// The section that is being read.
    section: Option<Section>,
    /// The line of each ID.
    ids: BTreeMap<String, usize>,
    /// The network's ID and the line of each remote.
    remotes: BTreeMap<Host, (String, usize)>,
}

struct Section {
    kind: Kind,
    id: String,
    /// The line of each key.
    keys: BTreeMap<String, usize>,
}

enum Kind {
    Network(NetworkKeys),
    Policy { require_encryption: bool },
}

/// The keys of a network that have been read so far.
#[derive(Default)]
struct NetworkKeys {
    remotes: Vec<Host>,
    source: Option<String>,
    target: Option<String>,
    allowed: Option<Vec<MigrationType>>,
    default: Option<MigrationType>,
    public: bool,
    gateway: bool,
    dead_peer_timeout: Option<u16>,
    congestion: Congestion,
    buffer: Buffer,
    lanes: Option<u16>,
    threads: Option<u16>,
    compression: Compression,
    comment: Option<String>,
}

impl Section {
    /// Its name in messages.
    fn name(&self) -> String {
        match self.kind {
            Kind::Network(_) => format!("network '{}'", self.id),
            Kind::Policy { .. } => format!("policy '{}'", self.id),
        }
    }
}

impl Reader {
    fn take(&mut self, text: &str) -> Parsed<()> {
        let content = text.trim_matches([' ', '\t']);
        if content.starts_with('#') {
            return Ok(());
        }
        if content.is_empty() {
            return self.end_section();
        }
        if text.starts_with([' ', '\t']) {
            return self.property(content);
        }
        self.end_section()?;
        self.begin_section(content)
    }

    fn begin_section(&mut self, content: &str) -> Parsed<()> {
        let header = content.split_once(':');
        let Some((kind, id)) = header.filter(|(kind, _)| !kind.contains([' ', '\t'])) else {
            return self.wrong(format!(
                "{} is not a section ('network: ID'), and a property begins with white space",
                scalar::shown(content)
            ));
        };
        let id = id.trim_matches([' ', '\t']);
        let kind = match kind {
            "network" => Kind::Network(NetworkKeys::default()),
            "policy" => Kind::Policy {
                require_encryption: false,
            },
            other => {
                return self.wrong(format!(
                    "unknown section type {}, expected one of: network, policy",
                    scalar::shown(other)
                ));
            }
        };
        if id.is_empty() {
            return self.wrong("the section has no ID: write 'network: ID'");
        }
        if let Some(reason) = id_mistake(id) {
            return self.wrong(format!("ID {} {reason}", scalar::shown(id)));
        }
        if matches!(kind, Kind::Policy { .. }) && id != POLICY_ID {
            return self.wrong(format!("the policy's ID is '{POLICY_ID}', not '{id}'"));
        }
        if let Some(first) = self.ids.insert(id.to_owned(), self.line) {
            return self.wrong(format!(
                "ID '{id}' is already used by the section at line {first}"
            ));
        }
        if self.ids.len() > MAX_SECTIONS {
            return self.wrong(format!("more than {MAX_SECTIONS} sections"));
        }
        self.section = Some(Section {
            kind,
            id: id.to_owned(),
            keys: BTreeMap::new(),
        });
        Ok(())
    }

    fn property(&mut self, content: &str) -> Parsed<()> {
        let (key, value) = content.split_once([' ', '\t']).unwrap_or((content, ""));
        let value = value.trim_matches([' ', '\t']);
        let line = self.line;
        let Some(section) = &mut self.section else {
            let before = if self.ids.is_empty() {
                "is before any section"
            } else {
                "follows an empty line, which ends a section"
            };
            return mistake(line, format!("property {} {before}", scalar::shown(key)));
        };
        let name = section.name();
        let known = match section.kind {
            Kind::Network(_) => NetworkKeys::NAMES.contains(&key),
            Kind::Policy { .. } => key == "require-encryption",
        };
        if !known {
            let key = scalar::shown(key);
            return mistake(line, format!("unknown key {key} in {name}"));
        }
        if let Some(first) = section.keys.insert(key.to_owned(), line) {
            let duplicate = format!("key '{key}' in {name} is already given at line {first}");
            return mistake(line, duplicate);
        }
        if value.is_empty() {
            return mistake(line, format!("key '{key}' in {name} has no value"));
        }
        match &mut section.kind {
            Kind::Network(network) => network.set(key, value),
            Kind::Policy { require_encryption } => {
                boolean(value).map(|flag| *require_encryption = flag)
            }
        }
        .or_else(|reason| mistake(line, format!("'{key}' of {name}: {reason}")))
    }

    fn end_section(&mut self) -> Parsed<()> {
        let Some(section) = self.section.take() else {
            return Ok(());
        };
        let first = self.ids.get(&section.id).copied().unwrap_or(self.line);
        match section.kind {
            Kind::Policy { require_encryption } => {
                self.configuration.require_encryption = require_encryption;
                self.lines.policy = Some(first);
            }
            Kind::Network(keys) => {
                let line = |key| section.keys.get(key).copied().unwrap_or(self.line);
                let network = keys
                    .finish(&section.id)
                    .or_else(|reason| mistake(line("default"), reason))?;
                for remote in &network.remotes {
                    let entry = (network.id.clone(), line("remote"));
                    if let Some((other, first)) = self.remotes.insert(remote.clone(), entry) {
                        let text = duplicate_remote(remote, &network.id, &other, first);
                        return mistake(line("remote"), text);
                    }
                }
                self.configuration.networks.push(network);
            }
        }
        self.lines.insert(section.id, first, section.keys);
        Ok(())
    }

    fn wrong<T>(&self, text: impl Into<String>) -> Parsed<T> {
        mistake(self.line, text)
    }
}

/// The message for a remote in two networks. With two, their order in the file would decide whether
/// guest data is encrypted.
fn duplicate_remote(remote: &Host, id: &str, other: &str, first: usize) -> String {
    if id == other {
        return format!("remote '{remote}' is listed twice in network '{id}'");
    }
    format!(
        "remote '{remote}' of network '{id}' is already listed in network '{other}' at line {first}"
    )
}

impl NetworkKeys {
    const NAMES: [&str; 14] = [
        "remote",
        "source",
        "target",
        "allow",
        "default",
        "public",
        "gateway",
        "dead-peer-timeout",
        "congestion",
        "buffer",
        "lanes",
        "threads",
        "compression",
        "comment",
    ];

    /// Sets one of [`Self::NAMES`]. The error is what is wrong with the value.
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "remote" => self.remotes = remotes(value)?,
            "source" => self.source = Some(network(value, false)?),
            "target" => self.target = Some(network(value, true)?),
            "allow" => self.allowed = Some(types(value)?),
            "default" => self.default = Some(migration_type(value)?),
            "public" => self.public = boolean(value)?,
            "gateway" => self.gateway = boolean(value)?,
            "dead-peer-timeout" => {
                self.dead_peer_timeout = Some(number(value, DEAD_PEER_TIMEOUTS, "seconds")?)
            }
            "congestion" => self.congestion = Congestion::from_text(value)?,
            "buffer" => self.buffer = Buffer::from_text(value)?,
            "lanes" => self.lanes = Some(number(value, LANES, "lanes")?),
            "threads" => self.threads = Some(number(value, THREADS, "threads")?),
            "compression" => self.compression = Compression::from_text(value)?,
            _ => self.comment = Some(value.to_owned()),
        }
        Ok(())
    }

    /// The network with its defaults. The error is a mistake in `default`.
    fn finish(self, id: &str) -> Result<Network, String> {
        let allowed = self.allowed.unwrap_or_else(|| vec![MigrationType::Secure]);
        let default = match self.default {
            Some(default) if !allowed.contains(&default) => {
                return Err(format!(
                    "'default' of network '{id}': {} is not in its 'allow' ({})",
                    default.name(),
                    type_names(&allowed)
                ));
            }
            Some(default) => default,
            None if allowed.contains(&MigrationType::Secure) => MigrationType::Secure,
            None => MigrationType::Insecure,
        };
        Ok(Network {
            id: id.to_owned(),
            remotes: self.remotes,
            source: self.source,
            target: self.target,
            allowed,
            default,
            public: self.public,
            gateway: self.gateway,
            dead_peer_timeout: self.dead_peer_timeout.unwrap_or(DEAD_PEER_TIMEOUT),
            congestion: self.congestion,
            buffer: self.buffer,
            lanes: self.lanes,
            threads: self.threads,
            compression: self.compression,
            comment: self.comment,
        })
    }
}

/// The names of these types, for messages.
pub(super) fn type_names(types: &[MigrationType]) -> String {
    let names: Vec<&str> = types.iter().map(|kind| kind.name()).collect();
    names.join(", ")
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(|item| item.trim_matches([' ', '\t']))
}

fn remotes(value: &str) -> Result<Vec<Host>, String> {
    list(value)
        .map(|item| {
            Host::parse(item).map_err(|reason| format!("host {} {reason}", scalar::shown(item)))
        })
        .collect()
}

/// Checks a CIDR or an interface name or, with `or_id`, an ID of the target's configuration.
fn network(value: &str, or_id: bool) -> Result<String, String> {
    if !(or_id && is_id(value)) {
        Spec::parse(value).map_err(|error| error.to_string())?;
    }
    Ok(value.to_owned())
}

fn types(value: &str) -> Result<Vec<MigrationType>, String> {
    let mut types = Vec::new();
    for item in list(value) {
        let kind = migration_type(item)?;
        if types.contains(&kind) {
            return Err(format!("{} is given twice", kind.name()));
        }
        types.push(kind);
    }
    Ok(types)
}

fn migration_type(value: &str) -> Result<MigrationType, String> {
    MigrationType::from_name(value).ok_or_else(|| {
        let value = scalar::shown(value);
        format!("{value} is not a type of migration, expected one of: secure, insecure")
    })
}

/// The words that Proxmox VE accepts as a boolean, in upper or lower case.
fn boolean(value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "yes" | "on" | "true" => Ok(true),
        "0" | "no" | "off" | "false" => Ok(false),
        _ => Err(format!(
            "{} is not a boolean: write 0 or 1",
            scalar::shown(value)
        )),
    }
}

fn number(value: &str, allowed: RangeInclusive<u16>, what: &str) -> Result<u16, String> {
    scalar::decimal_text(value)
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| allowed.contains(number))
        .ok_or_else(|| {
            format!(
                "{} is not a number of {what} from {} to {}",
                scalar::shown(value),
                allowed.start(),
                allowed.end()
            )
        })
}
