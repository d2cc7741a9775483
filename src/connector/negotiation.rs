//! Which plane guest data takes: asks the target what it can do, makes the plan, opens and dials
//! the listener, and makes the plan again with what came of that.

use super::Options;
use super::control::Control;
use super::direct::{Admission, Direct, unanswered};
use super::protocol::{self, AskError};
use super::race::{self, Candidate, Deadline};
use crate::capability::{
    Capabilities, Capability, CapabilityError, Dial, MigrationType, Plan, PlanError, PlanInput,
    Plane, plan, scalar,
};
use crate::direct::message::{Hello, Open};
use crate::direct::{DEAD_PEER_TIMEOUT, OLDEST_PROTOCOL, PROTOCOL};
use crate::network::SystemLookup;
use crate::network::endpoint::{self, EndpointInput, Migrate};
use crate::network::guard::{self, GuardInput};
use crate::process::{Log, seconds};
use crate::tls::Identity;
use serde::Deserialize;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Addresses of a target that are dialled at most: more than a node has for one purpose.
const MAX_ADDRESSES: usize = 16;

/// What the caller wishes, as `configuration::select` returns it, and what it knows of the target.
/// A misspelt key must not pass for its default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    #[serde(default)]
    migration_type: MigrationType,
    /// As the operator wrote it: CIDR, interface or ID.
    #[serde(default)]
    migration_network: Option<String>,
    /// It is an ID, or comes from the configuration.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    configured: bool,
    /// What the target is to listen on, in its own terms.
    #[serde(default)]
    network: Option<String>,
    /// Where our own side must lie for clear text.
    #[serde(default)]
    source_network: Option<String>,
    /// Of the version reply, known and unknown.
    #[serde(default)]
    caps: Vec<String>,
    /// What the caller allows besides the websocket; `qemu` only if it can start QEMU on TCP.
    #[serde(default)]
    planes: Vec<Plane>,
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    require_encryption: bool,
    /// Clear text to publicly routable addresses is allowed.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    public: bool,
    /// Clear text through the default gateway is allowed.
    #[serde(default, deserialize_with = "scalar::deserialize_flag")]
    gateway: bool,
    #[serde(default = "dead_peer_timeout", deserialize_with = "seconds")]
    dead_peer_timeout: Duration,
    /// From dialling the target's addresses to being let in at one of them.
    #[serde(default = "dial_timeout", deserialize_with = "seconds")]
    dial_timeout: Duration,
}

fn dead_peer_timeout() -> Duration {
    DEAD_PEER_TIMEOUT
}

fn dial_timeout() -> Duration {
    Duration::from_secs(5)
}

/// Why there is no plan. Nothing has been changed at the target.
#[derive(Debug, Error)]
pub(super) enum NegotiationError {
    #[error("the control connection is over")]
    NoControl,
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The target could, but will not: an upgrade of either node would change nothing.
    #[error(
        "clear text is not possible: the target does not offer it: {0}; mend that, or omit migration_type=insecure"
    )]
    Withheld(String),
}

/// What came of it.
pub(super) struct Negotiated {
    pub(super) plan: Plan,
    pub(super) direct: Option<Direct>,
}

/// Why a listener cannot be used.
struct Failed {
    addresses: Option<(String, u16)>,
    cause: String,
}

impl Failed {
    fn new(cause: impl ToString) -> Self {
        Self {
            addresses: None,
            cause: cause.to_string(),
        }
    }
}

/// A listener that can be used, and what the operator is to be told about the way there.
struct Reached {
    direct: Direct,
    warnings: Vec<String>,
}

/// Asks, plans, dials and plans again.
pub(super) async fn negotiate(
    wish: &Wish,
    control: &Control,
    options: &Options,
    log: &Arc<Log>,
) -> Result<Negotiated, NegotiationError> {
    // An ID means something to our own configuration only; what it stands for on the other side is
    // what the target hears.
    let network = match wish.configured {
        true => &wish.network,
        false => &wish.migration_network,
    };
    let mut input = PlanInput {
        migration_type: wish.migration_type,
        migration_network: network.clone(),
        configured: wish.configured,
        caps: wish.caps.clone(),
        planes: wish.planes.clone(),
        require_encryption: wish.require_encryption,
        dial: None,
    };
    let mut withheld = None;
    if wish.planes.iter().any(|plane| is_direct(*plane)) {
        let offer = offered(control, log).await?;
        input.caps.extend(offer.caps);
        withheld = offer.clear_text_withheld;
    }
    let first = plan(&input).map_err(|error| match (error, withheld) {
        (PlanError::TargetCannot { .. } | PlanError::SourceCannot { .. }, Some(reason)) => {
            NegotiationError::Withheld(reason)
        }
        (error, _) => error.into(),
    })?;
    let wanted = [first.plane, first.offline]
        .into_iter()
        .find(|plane| is_direct(*plane));
    let Some(plane) = wanted else {
        return Ok(Negotiated {
            plan: first,
            direct: None,
        });
    };
    let (dial, reached) = match reach(plane, wish, control, options, log).await {
        Ok(reached) => (
            Dial {
                ok: true,
                ..Dial::default()
            },
            Some(reached),
        ),
        Err(failed) => (
            Dial {
                ok: false,
                address: failed.addresses.as_ref().map(|(text, _)| text.clone()),
                port: failed.addresses.map(|(_, port)| port),
                error: Some(failed.cause),
            },
            None,
        ),
    };
    input.dial = Some(dial);
    let mut plan = plan(&input)?;
    let direct = reached.map(|reached| {
        plan.warnings.extend(reached.warnings);
        reached.direct
    });
    Ok(Negotiated { plan, direct })
}

fn is_direct(plane: Plane) -> bool {
    matches!(plane, Plane::Tls | Plane::Tcp)
}

/// What the target's seam offers.
#[derive(Default)]
struct Offer {
    /// Names of capabilities.
    caps: Vec<String>,
    /// Why there is no clear text among them, if the target says so.
    clear_text_withheld: Option<String>,
}

/// Asks the seam; nothing is offered if the target has none, or only one that speaks another
/// protocol.
async fn offered(control: &Control, log: &Log) -> Result<Offer, NegotiationError> {
    let request = json!({
        "op": "hello",
        "protocol": PROTOCOL,
        "version": env!("CARGO_PKG_VERSION"),
    });
    let hello: Hello = match protocol::ask(control, &request).await {
        Ok(hello) => hello,
        Err(AskError::NoControl) => return Err(NegotiationError::NoControl),
        Err(error) => {
            log.line(format_args!("the target has no direct planes: {error}"));
            return Ok(Offer::default());
        }
    };
    let oldest = hello.oldest.unwrap_or(hello.protocol);
    let common = hello.protocol.min(PROTOCOL);
    if common < oldest.max(OLDEST_PROTOCOL) {
        log.line(format_args!(
            "the target speaks direct protocols {oldest} to {}, this node {OLDEST_PROTOCOL} to {PROTOCOL}: no direct planes",
            hello.protocol
        ));
        return Ok(Offer::default());
    }
    // What this version does not know, nobody misses; and the log is not the target's to fill.
    let known = |(name, _): &(&String, &String)| Capability::from_name(name).is_some();
    for (name, reason) in hello.withheld.iter().filter(known) {
        log.line(format_args!("the target does not offer {name}: {reason}"));
    }
    let caps = Capabilities::from_json(&hello.caps)?;
    Ok(Offer {
        caps: caps.names().into_iter().map(str::to_owned).collect(),
        clear_text_withheld: hello.withheld.get("direct-tcp").cloned(),
    })
}

/// Rounded up: the seam takes nothing else.
fn whole_seconds(limit: Duration) -> u64 {
    limit.as_secs() + u64::from(limit.subsec_nanos() > 0)
}

/// Opens a listener at the target and enters by a first connection; closes it again if that fails.
async fn reach(
    plane: Plane,
    wish: &Wish,
    control: &Control,
    options: &Options,
    log: &Arc<Log>,
) -> Result<Reached, Failed> {
    let identity = match plane {
        Plane::Tls => Some(Identity::one_time().map_err(Failed::new)?),
        _ => None,
    };
    let mut request = json!({
        "op": "open",
        "protocol": PROTOCOL,
        "plane": plane,
        "dead_peer_timeout": whole_seconds(wish.dead_peer_timeout),
    });
    if let Some(network) = &wish.network {
        request["network"] = json!(network);
    }
    if let Some(identity) = &identity {
        request["fingerprint"] = json!(identity.fingerprint().to_string());
    }
    let reached = match protocol::ask::<Open>(control, &request).await {
        Ok(open) => enter(plane, &open, identity.as_ref(), wish, options, log).await,
        // It says that there is no listener, or can say nothing any more.
        Err(error @ (AskError::Refused(_) | AskError::NoControl)) => {
            return Err(Failed::new(error));
        }
        Err(error) => Err(Failed::new(error)),
    };
    if reached.is_err() {
        // A listener that nobody can use. If the target does not hear this, it ends with its
        // worker all the same.
        let _ = protocol::ask::<serde_json::Value>(control, &json!({ "op": "close" })).await;
    }
    reached
}

async fn enter(
    plane: Plane,
    open: &Open,
    identity: Option<&Identity>,
    wish: &Wish,
    options: &Options,
    log: &Arc<Log>,
) -> Result<Reached, Failed> {
    if open.plane != plane || !(OLDEST_PROTOCOL..=PROTOCOL).contains(&open.protocol) {
        let (plane, protocol) = (open.plane.name(), open.protocol);
        return Err(Failed::new(format_args!(
            "the target opened plane '{plane}' with protocol {protocol}, which was not asked for"
        )));
    }
    let (candidates, warnings) = acceptable(plane, open, wish)?;
    let admission = Admission::new(open, identity, options).map_err(Failed::new)?;
    let unreachable = |addresses: String, cause: String| Failed {
        addresses: Some((addresses, open.port)),
        cause,
    };
    let deadline = Deadline::within(wish.dial_timeout);
    let (stream, candidate) = race::connect(candidates, deadline)
        .await
        .map_err(|failures| {
            let (addresses, cause) = unanswered(&failures);
            unreachable(addresses, cause)
        })?;
    let address = candidate.endpoint.ip().to_string();
    let limit = wish.dead_peer_timeout;
    let direct = Direct::dial(admission, stream, candidate, deadline, limit, log.clone())
        .await
        .map_err(|error| unreachable(address, error.to_string()))?;
    Ok(Reached { direct, warnings })
}

/// Those of the announced addresses that may be dialled, and what is to be said about them.
fn acceptable(
    plane: Plane,
    open: &Open,
    wish: &Wish,
) -> Result<(Vec<Candidate>, Vec<String>), Failed> {
    let mut accepted = Vec::new();
    let mut warnings = Vec::new();
    let mut refused = Vec::new();
    for &address in open.addresses.iter().take(MAX_ADDRESSES) {
        match acceptable_one(plane, address, open.port, wish) {
            Ok((candidate, mut more)) => {
                accepted.push(candidate);
                more.retain(|warning| !warnings.contains(warning));
                warnings.append(&mut more);
            }
            Err(reason) => refused.push(reason),
        }
    }
    if accepted.is_empty() {
        return Err(Failed::new(match refused.is_empty() {
            true => "it announced no address".to_owned(),
            false => refused.join("; "),
        }));
    }
    Ok((accepted, warnings))
}

/// An address in the migration network with a port of the migration range; for clear text, one that
/// the guard lets through.
fn acceptable_one(
    plane: Plane,
    address: IpAddr,
    port: u16,
    wish: &Wish,
) -> Result<(Candidate, Vec<String>), String> {
    let endpoint = SocketAddr::new(address, port);
    // Any other name means something on the target only, at least there.
    let cidr = wish.network.clone().filter(|network| network.contains('/'));
    let announced = EndpointInput {
        migrate: Some(Migrate {
            proto: "tcp".to_owned(),
            addr: address.to_string(),
            port: port.into(),
        }),
        // Whoever names a network of loopback addresses has both ends on one machine.
        allow_loopback: cidr.is_some(),
        network: cidr.clone(),
        ..EndpointInput::default()
    };
    endpoint::check(&announced).map_err(|error| error.to_string())?;
    if plane == Plane::Tls {
        return Ok((Candidate::anywhere(endpoint), Vec::new()));
    }
    let input = GuardInput {
        address: address.to_string(),
        // An interface that the call names is one of this node as well. What is configured for the
        // other side may be an interface of the target's, or an ID.
        network: match wish.configured {
            true => cidr,
            false => wish.network.clone(),
        },
        source_network: wish.source_network.clone(),
        public: wish.public,
        gateway: wish.gateway,
    };
    let verdict = guard::check(&input, &SystemLookup).map_err(|error| error.to_string())?;
    // What was judged is what is connected: should the route change meanwhile, there is no way.
    let candidate = Candidate::from(endpoint, verdict.source, verdict.interface);
    Ok((candidate, verdict.warnings))
}
