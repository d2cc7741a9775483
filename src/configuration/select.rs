//! What the configuration says to one call.

use serde::{Deserialize, Serialize};

use super::parse::type_names;
use super::{Configuration, ConfigurationError, DEAD_PEER_TIMEOUT, Host, Network, is_id};
use crate::network::Spec;
use crate::plane::MigrationType;
use crate::scalar;

/// The call, on either side. Keys that are not listed here are refused.
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
        /// As asked for; null if the call does not say.
        #[serde(default)]
        migration_type: Option<MigrationType>,
        /// As asked for: an ID, a CIDR or an interface name; null if the call does not say.
        #[serde(default)]
        migration_network: Option<String>,
    },
    /// Where it goes.
    Target {
        /// What the source will do.
        migration_type: MigrationType,
        /// What the source asks for: an ID of this side, a CIDR or an interface name; null for
        /// none.
        #[serde(default)]
        migration_network: Option<String>,
    },
}

/// What a call gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Selection {
    /// To a call on the source.
    Source(SourceSelection),
    /// To a call on the target.
    Target(TargetSelection),
}

/// What a call on the source gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceSelection {
    /// The type asked for, else the network's default, else secure.
    pub migration_type: MigrationType,
    /// For words: the ID of the configured network, or what the call gave.
    pub migration_network: Option<String>,
    /// An administrator has decided this: no more is needed than for the migration itself.
    pub configured: bool,
    /// What to ask the target for: a CIDR, an interface name, or an ID of the target's.
    pub network: Option<String>,
    /// Where this side's end must lie: a CIDR or an interface name.
    pub source_network: Option<String>,
    /// The policy forbids clear text.
    pub require_encryption: bool,
    /// Clear text may go to publicly routable addresses.
    pub public: bool,
    /// Clear text may go through the default gateway.
    pub gateway: bool,
    /// Seconds.
    pub dead_peer_timeout: u16,
    /// Where this comes from, in one sentence.
    pub reason: String,
}

/// What a call on the target gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetSelection {
    /// Where to listen: a CIDR or an interface name of this side; null for the node's own address.
    pub network: Option<String>,
    /// An administrator has decided this: no more is needed than for the migration itself.
    pub configured: bool,
    /// The policy forbids clear text.
    pub require_encryption: bool,
    /// Clear text may go to publicly routable addresses.
    pub public: bool,
    /// Where this comes from, in one sentence.
    pub reason: String,
}

/// Selects what applies to one call.
///
/// | the call gives | on the source | on the target |
/// |---|---|---|
/// | the ID of a network | that network | that network, whose `source` is this side |
/// | a CIDR or an interface name | just that; networks of the configuration do not count | just that |
/// | no network | the network whose `remote` has the call's; else none | none |
///
/// An ID wins over an interface of the same name. The policy counts in every case.
///
/// # Errors
/// A type that the network does not allow; clear text against the policy, asked for or by default:
/// it never turns into anything else in silence; the ID of a network that is for other remotes,
/// since what is allowed towards one is not allowed towards all; malformed remotes and networks.
pub fn select(
    configuration: &Configuration,
    input: &SelectionInput,
) -> Result<Selection, ConfigurationError> {
    match input {
        SelectionInput::Source {
            remote,
            migration_type,
            migration_network,
        } => source(
            configuration,
            remote,
            *migration_type,
            migration_network.as_deref(),
        )
        .map(Selection::Source),
        SelectionInput::Target {
            migration_type,
            migration_network,
        } => target(configuration, *migration_type, migration_network.as_deref())
            .map(Selection::Target),
    }
}

fn source(
    configuration: &Configuration,
    remote: &str,
    asked: Option<MigrationType>,
    given: Option<&str>,
) -> Result<SourceSelection, ConfigurationError> {
    let remote = Host::parse(remote).map_err(|reason| ConfigurationError::Remote {
        host: scalar::one_line(remote),
        reason,
    })?;
    let for_remote = configuration.network_for(&remote);
    let (network, reason) = match (given, for_remote) {
        (Some(text), other) => match by_id(configuration, text)? {
            Some(network) => {
                serves(network, &remote)?;
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
    let migration_type = permitted(configuration, network, asked)?;
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
            reason,
        },
    })
}

fn target(
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
        reason: match (network, given) {
            (Some(network), _) => by_id_reason(network),
            (None, Some(text)) => format!("migration network '{text}' was given"),
            (None, None) => "no network was asked for".to_owned(),
        },
    })
}

/// The network of that ID, or none if the text is a CIDR or an interface name.
fn by_id<'a>(
    configuration: &'a Configuration,
    text: &str,
) -> Result<Option<&'a Network>, ConfigurationError> {
    if let Some(network) = configuration.network(text) {
        return Ok(Some(network));
    }
    match Spec::parse(text) {
        Ok(_) => Ok(None),
        // Of all that an ID may be, only a long one is no interface name.
        Err(_) if is_id(text) => Err(ConfigurationError::UnknownId {
            id: text.to_owned(),
            known: known_ids(configuration),
        }),
        Err(error) => Err(error.into()),
    }
}

fn known_ids(configuration: &Configuration) -> String {
    let ids: Vec<&str> = configuration
        .networks
        .iter()
        .map(|network| network.id.as_str())
        .collect();
    if ids.is_empty() {
        return "none".to_owned();
    }
    scalar::one_line(&ids.join(", "))
}

/// Selecting by ID needs no privilege, so that the ID of one remote's network must not lead to
/// another.
fn serves(network: &Network, remote: &Host) -> Result<(), ConfigurationError> {
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
    format!("network '{}' was asked for by its ID", network.id)
}

fn given_reason(text: &str, other: Option<&Network>, remote: &Host) -> String {
    let given = format!("migration network '{text}' was given");
    match other {
        Some(other) => {
            let id = &other.id;
            format!("{given}, and replaces network '{id}', configured for remote '{remote}'")
        }
        None => given,
    }
}

/// The type that is asked for or the default one, if network and policy let it pass.
fn permitted(
    configuration: &Configuration,
    network: Option<&Network>,
    asked: Option<MigrationType>,
) -> Result<MigrationType, ConfigurationError> {
    let default = network.map(|network| network.default).unwrap_or_default();
    let kind = asked.unwrap_or(default);
    if kind == MigrationType::Insecure && configuration.require_encryption {
        return Err(encryption_required(network, asked.is_some()));
    }
    match network {
        Some(network) if !network.allowed.contains(&kind) => Err(ConfigurationError::NotAllowed {
            id: network.id.clone(),
            asked: kind.name(),
            allowed: type_names(&network.allowed),
        }),
        _ => Ok(kind),
    }
}

fn encryption_required(network: Option<&Network>, asked: bool) -> ConfigurationError {
    let cause = match network {
        Some(network) if !asked => {
            format!(
                "migration_type=insecure, the default of network '{}',",
                network.id
            )
        }
        _ => "migration_type=insecure".to_owned(),
    };
    let way_out = match network {
        Some(network) if !network.allowed.contains(&MigrationType::Secure) => {
            format!("network '{}' needs an 'allow' with secure", network.id)
        }
        _ => "ask for migration_type=secure".to_owned(),
    };
    ConfigurationError::EncryptionRequired { cause, way_out }
}
