//! The decision table: it chooses the plane from the request and from what both nodes support.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::capability::{Capabilities, Capability, CapabilityError};
use crate::configuration;
use crate::network::{NetworkError, Spec};
use crate::plane::{MigrationType, Plane};
use crate::scalar;

/// The result of a connection to the target's listener.
///
/// As JSON: `{"ok":true}` or
/// `{"ok":false,"address":"192.0.2.7","port":60000,"error":"connection refused"}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dial {
    /// Whether the listener answered within the time limit.
    #[serde(deserialize_with = "scalar::deserialize_flag")]
    pub ok: bool,
    /// The address that was dialled; none if no address was.
    #[serde(default)]
    pub address: Option<String>,
    /// The port that was dialled.
    #[serde(default, deserialize_with = "scalar::deserialize_optional_number")]
    pub port: Option<u16>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
}

/// Everything that a plan depends on. Other keys are an error: a misspelt `require_encryption` must
/// not count as `false`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanInput {
    /// `secure` if absent or null.
    #[serde(default, deserialize_with = "scalar::deserialize_or_default")]
    pub migration_type: MigrationType,
    /// A CIDR or an interface name; null for the target node's own address. With `configured`, it
    /// may be the ID of the configured network.
    #[serde(default)]
    pub migration_network: Option<String>,
    /// An administrator has chosen type and network: a network of the configuration was selected,
    /// see [`crate::configuration`]. The user then needs no privilege for them.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub configured: bool,
    /// All capability names of the target, including unknown ones.
    #[serde(default)]
    pub caps: Vec<String>,
    /// Why the target withholds direct TLS, which its software supports; none if it gave no reason.
    #[serde(default)]
    pub tls_withheld: Option<String>,
    /// The planes that this source supports; `websocket` is always supported.
    #[serde(default)]
    pub planes: Vec<Plane>,
    /// The configuration forbids clear text.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    pub require_encryption: bool,
    /// The result of a connection to the listener. Null before the first attempt, which counts as a
    /// success.
    #[serde(default)]
    pub dial: Option<Dial>,
}

/// Parameters of the worker's `start` command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// `tcp` for the `qemu` plane; `unix` for all others, where QEMU stays on UNIX sockets.
    pub statefile: String,
    /// `insecure` for the `qemu` plane; `websocket` for all others, because a stock worker accepts
    /// only this type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The migration network, if one was given and the plane uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// One of the two nodes of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Node {
    /// Where the guest runs.
    Source,
    /// Where the guest moves to.
    Target,
}

/// A privilege the migrating user must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privilege {
    /// ACL path, such as `/`.
    pub path: String,
    /// Name of the privilege, such as `Sys.Modify`.
    pub privilege: String,
    /// The nodes that check it.
    pub on: Vec<Node>,
}

/// The plan of one migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// For the RAM stream and for live disks.
    pub plane: Plane,
    /// For offline disks and container volumes; never `qemu`.
    pub offline: Plane,
    /// The migration network of the data; null if the plane does not use one.
    pub network: Option<String>,
    /// For the worker's `start` command.
    pub start: Start,
    /// To be checked before anything is created.
    pub privileges: Vec<Privilege>,
    /// To be printed before anything is created.
    pub warnings: Vec<String>,
    /// Why this plane was chosen, in one sentence.
    pub reason: String,
}

/// Why there is no plan. After such an error no command that changes the target may be sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// The configuration forbids clear text, which was requested.
    #[error(
        "migration_type=insecure would send guest data in clear text, but the configuration requires encryption: omit migration_type=insecure"
    )]
    EncryptionRequired,
    /// The target does not support clear text.
    #[error(
        "the target node does not support migration_type=insecure for remote migration (it offers {offered}): upgrade the target node, or omit migration_type=insecure"
    )]
    TargetCannot {
        /// The target's capabilities.
        offered: String,
    },
    /// The target supports clear text, but this source supports none of the planes that it offers.
    #[error(
        "the target node offers migration_type=insecure on the planes {offered}, but this node supports none of these: upgrade this node, or omit migration_type=insecure"
    )]
    SourceCannot {
        /// The planes that the target offers.
        offered: String,
    },
    /// The plane would be `tcp`, but the target's listener does not answer.
    #[error("clear text is not possible: {problem}; fix that, or omit migration_type=insecure")]
    Unreachable {
        /// Address, port and cause, if they are known.
        problem: String,
    },
    /// A capability name is malformed.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// The migration network is neither a CIDR nor an interface name.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// Decides how guest data travels.
///
/// | request | target offers | plan |
/// |---|---|---|
/// | secure | `direct-tls`, its listener answers, and the source supports `tls` | `tls` |
/// | secure | `direct-tls`, but its listener does not answer | `websocket`, with a warning |
/// | secure | otherwise | `websocket` |
/// | insecure | `insecure-remote`, and the source supports `qemu` | `qemu`; offline volumes `tcp` if both support it, else `websocket` |
/// | insecure | `direct-tcp`, and the source supports `tcp` | `tcp` |
/// | insecure | otherwise | error |
/// | insecure, encryption required | anything | error |
///
/// # Errors
/// The error rows above; a `tcp` listener that does not answer, because clear text is never
/// replaced silently; malformed capability names; a malformed migration network.
pub fn plan(input: &PlanInput) -> Result<Plan, PlanError> {
    let offered = Capabilities::from_names(&input.caps)?;
    if let Some(network) = &input.migration_network {
        // An ID may be longer than any interface name.
        if !(input.configured && configuration::is_id(network)) {
            Spec::parse(network)?;
        }
    }
    match input.migration_type {
        MigrationType::Secure => Ok(secure(input, &offered)),
        MigrationType::Insecure if input.require_encryption => Err(PlanError::EncryptionRequired),
        MigrationType::Insecure => insecure(input, &offered),
    }
}

fn secure(input: &PlanInput, offered: &Capabilities) -> Plan {
    let mut warnings = Vec::new();
    let target_can = offered.has(Capability::DirectTls);
    let source_can = input.planes.contains(&Plane::Tls);
    let withheld = input.tls_withheld.as_deref().map(scalar::one_line);
    let (plane, reason) = match (failed_dial(input), withheld) {
        _ if !source_can => (
            Plane::Websocket,
            "secure was requested, and the caller does not permit direct TLS".to_owned(),
        ),
        (None, _) if target_can => (
            Plane::Tls,
            "secure was requested, and both nodes support direct TLS".to_owned(),
        ),
        (Some(dial), _) if target_can => {
            warnings.push(format!(
                "{}; guest data uses the encrypted websocket through its API instead, which is slower",
                problem(dial)
            ));
            (
                Plane::Websocket,
                "secure was requested, and the target's direct TLS listener cannot be used"
                    .to_owned(),
            )
        }
        (_, Some(withheld)) => (
            Plane::Websocket,
            format!("secure was requested, and the target withholds direct TLS: {withheld}"),
        ),
        (_, None) => (
            Plane::Websocket,
            "secure was requested, and the target does not offer direct TLS".to_owned(),
        ),
    };
    let unused = input
        .migration_network
        .as_deref()
        .filter(|_| plane == Plane::Websocket);
    if let Some(network) = unused {
        warnings.push(format!(
            "migration network '{network}' is not used: guest data goes through the target's API, over the network of its API address"
        ));
    }
    finish(input, plane, plane, warnings, &reason)
}

fn insecure(input: &PlanInput, offered: &Capabilities) -> Result<Plan, PlanError> {
    let tcp_offered = offered.has(Capability::DirectTcp);
    let tcp = tcp_offered && input.planes.contains(&Plane::Tcp);
    let qemu_offered = offered.has(Capability::InsecureRemote);
    if qemu_offered && input.planes.contains(&Plane::Qemu) {
        return Ok(qemu(input, tcp));
    }
    if tcp {
        if let Some(dial) = failed_dial(input) {
            return Err(PlanError::Unreachable {
                problem: problem(dial),
            });
        }
        let warnings = vec![clear_text(input, "guest RAM and all disks and volumes")];
        let reason = "insecure was requested, and the target accepts clear TCP at its listener";
        return Ok(finish(input, Plane::Tcp, Plane::Tcp, warnings, reason));
    }
    if qemu_offered || tcp_offered {
        let planes = [(qemu_offered, Plane::Qemu), (tcp_offered, Plane::Tcp)];
        let names: Vec<&str> = planes
            .iter()
            .filter(|(offered, _)| *offered)
            .map(|(_, plane)| plane.name())
            .collect();
        return Err(PlanError::SourceCannot {
            offered: names.join(", "),
        });
    }
    let names = offered.names();
    Err(PlanError::TargetCannot {
        offered: if names.is_empty() {
            "no capabilities".to_owned()
        } else {
            names.join(", ")
        },
    })
}

fn qemu(input: &PlanInput, tcp: bool) -> Plan {
    let reason = "insecure was requested, and the target lets QEMU listen on clear TCP";
    // The dial tests the listener, which serves offline volumes. QEMU's own ports open later.
    let failed = failed_dial(input).filter(|_| tcp);
    let offline = if tcp && failed.is_none() {
        Plane::Tcp
    } else {
        Plane::Websocket
    };
    let mut warnings = vec![match offline {
        Plane::Tcp => clear_text(input, "guest RAM and all disks and volumes"),
        _ => clear_text(input, "guest RAM and the disks of the running guest"),
    }];
    if let Some(dial) = failed {
        warnings.push(format!(
            "{}; offline volumes use the encrypted websocket through its API instead, which is slower",
            problem(dial)
        ));
    }
    finish(input, Plane::Qemu, offline, warnings, reason)
}

fn finish(
    input: &PlanInput,
    plane: Plane,
    offline: Plane,
    warnings: Vec<String>,
    reason: &str,
) -> Plan {
    let network = input
        .migration_network
        .clone()
        .filter(|_| plane != Plane::Websocket);
    let (statefile, kind) = match plane {
        Plane::Qemu => ("tcp", "insecure"),
        _ => ("unix", "websocket"),
    };
    Plan {
        plane,
        offline,
        start: Start {
            statefile: statefile.to_owned(),
            kind: kind.to_owned(),
            network: network.clone(),
        },
        network,
        privileges: privileges(
            input.migration_type,
            input.migration_network.as_deref(),
            input.configured,
        ),
        warnings,
        reason: reason.to_owned(),
    }
}

/// The privileges that the user needs for type and network.
///
/// An administrator decides about clear text, and about the network of guest data. The user of the
/// source does not exist in the target's cluster, so for clear text the target also checks the user
/// of the API token. No privilege is necessary if an administrator has configured type and network.
pub fn privileges(
    migration_type: MigrationType,
    migration_network: Option<&str>,
    configured: bool,
) -> Vec<Privilege> {
    if configured {
        return Vec::new();
    }
    let on = match (migration_type, migration_network) {
        (MigrationType::Insecure, _) => vec![Node::Source, Node::Target],
        (MigrationType::Secure, Some(_)) => vec![Node::Source],
        (MigrationType::Secure, None) => return Vec::new(),
    };
    vec![Privilege {
        path: "/".to_owned(),
        privilege: "Sys.Modify".to_owned(),
        on,
    }]
}

fn clear_text(input: &PlanInput, what: &str) -> String {
    let network = match &input.migration_network {
        Some(network) => format!("migration network '{network}'"),
        None => {
            "an unknown network between the nodes' own addresses (no migration network is given)"
                .to_owned()
        }
    };
    format!(
        "WARNING: CLEAR TEXT! {what} will travel UNENCRYPTED over {network}. Every host on the path can read and change them. Make sure that this is a private network that you trust, and never the internet"
    )
}

fn failed_dial(input: &PlanInput) -> Option<&Dial> {
    input.dial.as_ref().filter(|dial| !dial.ok)
}

/// What is wrong with the listener: it did not answer, or it has no address to connect to.
fn problem(dial: &Dial) -> String {
    let cause = match &dial.error {
        Some(error) => scalar::one_line(error),
        None => "no cause given".to_owned(),
    };
    let Some(address) = &dial.address else {
        return format!("the target's listener cannot be used: {cause}");
    };
    let address = scalar::one_line(address);
    match dial.port {
        Some(port) => {
            format!("the target's listener at {address}, port {port}, is unreachable: {cause}")
        }
        None => format!("the target's listener at {address} is unreachable: {cause}"),
    }
}
