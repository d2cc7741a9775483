//! What the configuration means for one call.

use serde::{Deserialize, Serialize};

use super::parse::type_names;
use super::{Configuration, ConfigurationError, DEAD_PEER_TIMEOUT, Host, Network, is_id};
use crate::lanes::Compression;
use crate::network::Spec;
use crate::plane::MigrationType;
use crate::scalar;
use crate::tuning::{Buffer, Congestion};

/// The call, on the source or on the target. Other keys are an error.
///
/// As JSON:
/// `{"side":"source","remote":"192.0.2.7","migration_type":null,"migration_network":"dc2"}` or
/// `{"side":"target","migration_type":"secure","migration_network":null}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "side", rename_all = "lowercase", deny_unknown_fields)]
pub enum SelectionInput {
    /// Where the guest runs.
    Source {
        /// The host of the target endpoint: a name or an address.
        remote: String,
        /// The requested type; null if the call does not specify one.
        #[serde(default)]
        migration_type: Option<MigrationType>,
        /// The requested network: an ID, a CIDR or an interface name; null if the call does not
        /// specify one.
        #[serde(default)]
        migration_network: Option<String>,
    },
    /// Where the guest moves to.
    Target {
        /// The type that the source has chosen.
        migration_type: MigrationType,
        /// The network that the source requests: an ID of this node's configuration, a CIDR or an
        /// interface name; null for none.
        #[serde(default)]
        migration_network: Option<String>,
    },
}

/// What applies to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Selection {
    /// On the source.
    Source(SourceSelection),
    /// On the target.
    Target(TargetSelection),
}

/// What applies to a call on the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceSelection {
    /// The requested type, else the network's default, else secure.
    pub migration_type: MigrationType,
    /// For messages: the ID of the configured network, or what the call requested.
    pub migration_network: Option<String>,
    /// An administrator has configured this. The user needs only the privileges of the migration
    /// itself.
    pub configured: bool,
    /// What to request from the target: a CIDR, an interface name, or an ID of the target's
    /// configuration.
    pub network: Option<String>,
    /// The network of this node's own address: a CIDR or an interface name.
    pub source_network: Option<String>,
    /// The policy forbids clear text.
    pub require_encryption: bool,
    /// Clear text may go to publicly routable addresses.
    pub public: bool,
    /// Clear text may go through the default gateway.
    pub gateway: bool,
    /// Seconds, one of [`DEAD_PEER_TIMEOUTS`](super::DEAD_PEER_TIMEOUTS).
    pub dead_peer_timeout: u16,
    /// How TCP reacts to loss.
    pub congestion: Congestion,
    /// The size of the buffers of sockets.
    pub buffer: Buffer,
    /// The most connections that carry one stream together; null for the default, which is 3 websockets
    /// or one direct connection.
    pub lanes: Option<u16>,
    /// The threads that serve them beside the connector's own one; null for the default.
    pub threads: Option<u16>,
    /// How the data is compressed.
    pub compression: Compression,
    /// Why this network was selected, in one sentence.
    pub reason: String,
}

impl SourceSelection {
    /// Whether the target can find the network in its own file, so that its user needs no privilege for
    /// type and network. Only an ID can be found there. An interface can have the form of an ID: if the
    /// target has no network of that name, it requires the privilege.
    #[must_use]
    pub fn may_be_configured_at_target(&self) -> bool {
        self.configured && self.network.as_deref().is_some_and(is_id)
    }
}

/// What applies to a call on the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetSelection {
    /// The network to listen on: a CIDR or an interface name of this node; null for the node's own
    /// address.
    pub network: Option<String>,
    /// An administrator has configured this. The user needs only the privileges of the migration
    /// itself.
    pub configured: bool,
    /// The policy forbids clear text.
    pub require_encryption: bool,
    /// Clear text may be received on publicly routable addresses.
    pub public: bool,
    /// How TCP reacts to loss.
    pub congestion: Congestion,
    /// The size of the buffers of sockets.
    pub buffer: Buffer,
    /// The threads that serve lanes beside the listener's own one; null for the default.
    pub threads: Option<u16>,
    /// Why this network was selected, in one sentence.
    pub reason: String,
}

/// Selects what applies to one call.
///
/// | the call requests | on the source | on the target |
/// |---|---|---|
/// | the ID of a network | that network | the `source` of that network |
/// | a CIDR or an interface name | only that; configured networks are ignored | only that |
/// | no network | the network whose `remote` lists the call's remote, else none | none |
///
/// An ID has precedence over an interface of the same name. The policy applies in every case.
///
/// # Errors
/// * The network does not allow the type.
/// * The type is insecure, requested or by default, and the policy requires encryption. The type is
///   never changed silently.
/// * The network is configured for other remotes: what is allowed for one remote is not allowed for
///   all of them.
/// * The remote or the network is malformed.
pub fn select(
    configuration: &Configuration,
    input: &SelectionInput,
) -> Result<Selection, ConfigurationError> {
    match input {
        SelectionInput::Source {
            remote,
            migration_type,
            migration_network,
        } => select_source(
            configuration,
            remote,
            *migration_type,
            migration_network.as_deref(),
        )
        .map(Selection::Source),
        SelectionInput::Target {
            migration_type,
            migration_network,
        } => select_target(configuration, *migration_type, migration_network.as_deref())
            .map(Selection::Target),
    }
}

/// What the configuration means for a call on the source; see [`select`].
///
/// # Errors
/// As for [`select`].
pub fn select_source(
    configuration: &Configuration,
    remote: &str,
    requested: Option<MigrationType>,
    given: Option<&str>,
) -> Result<SourceSelection, ConfigurationError> {
    let remote = Host::parse(remote).map_err(|reason| ConfigurationError::Remote {
        host: scalar::as_given(remote),
        reason,
    })?;
    let for_remote = configuration.network_for(&remote);
    let (network, reason) = match (given, for_remote) {
        (Some(text), other) => match by_id(configuration, text)? {
            Some(network) => {
                check_remote(network, &remote)?;
                (Some(network), by_id_reason(network))
            }
            None => (None, given_reason(text, other, &remote)),
        },
        (None, Some(network)) => {
            let id = &network.id;
            let reason = format!("network '{id}' is configured for remote '{remote}'");
            (Some(network), reason)
        }
        (None, None) => {
            let reason = format!("no network is configured for remote '{remote}'");
            (None, reason)
        }
    };
    let migration_type = permitted(configuration, network, requested)?;
    Ok(match network {
        Some(network) => SourceSelection {
            migration_type,
            migration_network: Some(network.id.clone()),
            configured: true,
            network: network.target.clone(),
            source_network: network.source.clone(),
            require_encryption: configuration.require_encryption,
            public: network.public,
            gateway: network.gateway,
            dead_peer_timeout: network.dead_peer_timeout,
            congestion: network.congestion,
            buffer: network.buffer,
            lanes: network.lanes,
            threads: network.threads,
            compression: network.compression,
            reason,
        },
        None => SourceSelection {
            migration_type,
            migration_network: given.map(str::to_owned),
            configured: false,
            network: given.map(str::to_owned),
            source_network: given.map(str::to_owned),
            require_encryption: configuration.require_encryption,
            public: false,
            gateway: false,
            dead_peer_timeout: DEAD_PEER_TIMEOUT,
            congestion: Congestion::default(),
            buffer: Buffer::default(),
            lanes: None,
            threads: None,
            compression: Compression::None,
            reason,
        },
    })
}

/// What the configuration permits on the target; see [`select`].
///
/// # Errors
/// As for [`select`].
pub fn select_target(
    configuration: &Configuration,
    migration_type: MigrationType,
    given: Option<&str>,
) -> Result<TargetSelection, ConfigurationError> {
    let network = given
        .map(|text| by_id(configuration, text))
        .transpose()?
        .flatten();
    permitted(configuration, network, Some(migration_type))?;
    Ok(TargetSelection {
        network: match network {
            Some(network) => network.source.clone(),
            None => given.map(str::to_owned),
        },
        configured: network.is_some(),
        require_encryption: configuration.require_encryption,
        public: network.is_some_and(|network| network.public),
        congestion: network
            .map(|network| network.congestion)
            .unwrap_or_default(),
        buffer: network.map(|network| network.buffer).unwrap_or_default(),
        threads: network.and_then(|network| network.threads),
        reason: match (network, given) {
            (Some(network), _) => by_id_reason(network),
            (None, Some(text)) => format!("migration network '{text}' was given"),
            (None, None) => "no network was requested".to_owned(),
        },
    })
}

/// The network with that ID, or none if the text is a CIDR or an interface name.
fn by_id<'a>(
    configuration: &'a Configuration,
    text: &str,
) -> Result<Option<&'a Network>, ConfigurationError> {
    if let Some(network) = configuration.network(text) {
        return Ok(Some(network));
    }
    // Each ID can also be the name of an interface.
    Spec::parse(text)?;
    Ok(None)
}

/// Checks that the network may be used for this remote. Selection by ID requires no privilege, so
/// the ID of a network for one remote must not work for another one.
fn check_remote(network: &Network, remote: &Host) -> Result<(), ConfigurationError> {
    if network.remotes.is_empty() || network.remotes.contains(remote) {
        return Ok(());
    }
    let remotes: Vec<String> = network.remotes.iter().map(Host::to_string).collect();
    Err(ConfigurationError::OtherRemote {
        id: network.id.clone(),
        remotes: scalar::one_line(&remotes.join(", ")),
        remote: remote.to_string(),
    })
}

fn by_id_reason(network: &Network) -> String {
    format!("network '{}' was requested by its ID", network.id)
}

fn given_reason(text: &str, other: Option<&Network>, remote: &Host) -> String {
    let given = format!("migration network '{text}' was given");
    match other {
        Some(other) => {
            let id = &other.id;
            format!(
                "{given}, and replaces network '{id}', which is configured for remote '{remote}'"
            )
        }
        None => given,
    }
}

/// The requested type, or the default, if the network and the policy permit it.
fn permitted(
    configuration: &Configuration,
    network: Option<&Network>,
    requested: Option<MigrationType>,
) -> Result<MigrationType, ConfigurationError> {
    let default = network.map(|network| network.default).unwrap_or_default();
    let kind = requested.unwrap_or(default);
    if kind == MigrationType::Insecure && configuration.require_encryption {
        return Err(encryption_required(network, requested.is_some()));
    }
    match network {
        Some(network) if !network.allowed.contains(&kind) => Err(ConfigurationError::NotAllowed {
            id: network.id.clone(),
            requested: kind.name(),
            allowed: type_names(&network.allowed),
        }),
        _ => Ok(kind),
    }
}

fn encryption_required(network: Option<&Network>, requested: bool) -> ConfigurationError {
    let cause = match network {
        Some(network) if !requested => {
            format!(
                "migration_type=insecure, the default of network '{}',",
                network.id
            )
        }
        _ => "migration_type=insecure".to_owned(),
    };
    let solution = match network {
        Some(network) if !network.allowed.contains(&MigrationType::Secure) => {
            format!("add secure to the 'allow' of network '{}'", network.id)
        }
        _ => "use migration_type=secure".to_owned(),
    };
    ConfigurationError::EncryptionRequired { cause, solution }
}
