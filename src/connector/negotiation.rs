//! Negotiation of the plane: requests the target's offer, makes the plan, opens and dials the
//! listener, and makes the plan again with the result.

use super::Options;
use super::address_rules::AddressRules;
use super::agreed::Agreed;
use super::api_address::ApiAddress;
use super::api_lanes;
use super::api_route::Api;
use super::connect_error::ConnectError;
use super::direct_endpoint::Credentials;
use super::direct_target::{DirectTarget, Healing};
use super::happy_eyeballs::{self, Candidate, Deadline};
use super::protocol::PlaneRequest;
use super::worker::{RequestError, WorkerChannel, request_operation};
use crate::capability::{Capabilities, Capability, CapabilityError};
use crate::direct::message::{MAX_ADDRESSES, Offer, Open, shown_on_source};
use crate::direct::{LANES_PROTOCOL, LaneResources, OLDEST_PROTOCOL, PROTOCOL, Windows};
use crate::plan::{Dial, Plan, PlanError, PlanInput, plan};
use crate::plane::{MigrationType, Plane};
use crate::process::Log;
use crate::tls::Identity;
use serde_json::json;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use thiserror::Error;

/// Why there is no plan. Nothing has been changed on the target.
#[derive(Debug, Error)]
pub(super) enum NegotiationError {
    #[error("the control connection has ended")]
    NoControl,
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The target supports clear text and does not offer it. An upgrade of either node would not help.
    #[error(
        "clear text is not possible: the target does not offer it: {0}; fix that, or omit migration_type=insecure"
    )]
    Withheld(String),
    /// The target's configuration may forbid the migration.
    #[error("the target's configuration has a mistake: {0}; fix it on the target node")]
    TargetConfiguration(String),
}

/// The result of a negotiation.
pub(super) struct Negotiated {
    pub(super) plan: Plan,
    pub(super) target: Option<DirectTarget>,
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

/// A listener that can be used, with warnings for the operator about the network path.
struct Reached {
    target: DirectTarget,
    warnings: Vec<String>,
}

/// Negotiates the plane of a migration.
pub(super) async fn negotiate(
    request: &PlaneRequest,
    worker: &WorkerChannel,
    address: &Arc<ApiAddress>,
    rules: &AddressRules,
    options: &Arc<Options>,
    log: &Arc<Log>,
) -> Result<Negotiated, NegotiationError> {
    // An ID is valid in this node's configuration only. The target receives the network that the
    // configuration has for it.
    let network = match request.configured {
        true => &request.network,
        false => &request.migration_network,
    };
    let mut input = PlanInput {
        migration_type: request.migration_type,
        migration_network: network.clone(),
        configured: request.configured,
        caps: request.caps.clone(),
        tls_withheld: None,
        planes: request.planes.clone(),
        require_encryption: request.require_encryption,
        dial: None,
    };
    let mut withheld = None;
    let mut agreed = Agreed::OLDEST;
    let mut api_lanes = None;
    let wants_offer =
        request.api.is_some() || request.planes.iter().any(|plane| has_listener(*plane));
    if wants_offer {
        let offer = offered_planes(request, worker, log).await?;
        input.caps.extend(offer.caps);
        input.tls_withheld = offer.tls_withheld;
        withheld = offer.clear_text_withheld;
        api_lanes = offer.api_lanes.zip(request.api.as_ref());
        if let Some(common) = offer.protocols {
            let accepts = offer.accepts_compression;
            agreed = Agreed::new(request, &common, accepts, |text| log.line(text));
        }
    }
    let mut decided = plan(&input).map_err(|error| match (error, withheld) {
        (PlanError::TargetCannot { .. } | PlanError::SourceCannot { .. }, Some(reason)) => {
            NegotiationError::Withheld(reason)
        }
        (error, _) => error.into(),
    })?;
    let mut target = None;
    let of_forwards = |plan: &Plan| {
        let planes = [plan.plane, plan.offline];
        planes.into_iter().find(|plane| has_listener(*plane))
    };
    if let Some(plane @ (Plane::Tls | Plane::Tcp)) = of_forwards(&decided) {
        let reached = reach((plane, agreed), request, worker, rules, options, log).await;
        input.dial = Some(dial_result(&reached));
        decided = plan(&input)?;
        if let Ok(reached) = reached {
            decided.warnings.extend(reached.warnings);
            target = Some(reached.target);
        }
    }
    if let (Some((protocol, target_data)), Some(Plane::Websocket)) =
        (api_lanes, of_forwards(&decided))
    {
        let asked = (protocol, agreed.compression);
        let api = Api {
            target: target_data,
            address,
        };
        match api_lanes::open(asked, request, worker, api, options, log).await {
            Ok(reached) => {
                decided.reason.push_str("; ");
                decided.reason.push_str(api_lanes::REASON);
                target = Some(reached);
            }
            Err(cause) => decided.warnings.push(format!(
                "guest data uses one websocket for each stream instead of several: {cause}"
            )),
        }
    }
    Ok(Negotiated {
        plan: decided,
        target,
    })
}

/// Whether forwards on this plane end at the target's listener.
fn has_listener(plane: Plane) -> bool {
    matches!(plane, Plane::Tls | Plane::Tcp | Plane::Websocket)
}

/// What the plan is made again with.
fn dial_result(reached: &Result<Reached, Failed>) -> Dial {
    match reached {
        Ok(_) => Dial {
            ok: true,
            ..Dial::default()
        },
        Err(failed) => Dial {
            ok: false,
            address: failed.addresses.as_ref().map(|(text, _)| text.clone()),
            port: failed.addresses.as_ref().map(|(_, port)| *port),
            error: Some(failed.cause.clone()),
        },
    }
}

/// What the target's seam offers.
#[derive(Default)]
struct OfferedPlanes {
    /// The protocols in common; none without direct planes.
    protocols: Option<RangeInclusive<u16>>,
    /// The protocol of lanes through the API; none if the target has none.
    api_lanes: Option<u16>,
    /// The target accepts what the source was requested to compress.
    accepts_compression: bool,
    /// Names of capabilities.
    caps: Vec<String>,
    /// Why direct TLS is not among them, if the target gives a reason.
    tls_withheld: Option<String>,
    /// The same for clear text.
    clear_text_withheld: Option<String>,
}

/// Requests the seam's offer. The offer is empty if the target has no seam, or a seam without a
/// protocol in common.
async fn offered_planes(
    request: &PlaneRequest,
    worker: &WorkerChannel,
    log: &Log,
) -> Result<OfferedPlanes, NegotiationError> {
    let operation = json!({
        "op": "hello",
        "protocol": PROTOCOL,
        "version": env!("CARGO_PKG_VERSION"),
    });
    let offer: Offer = match request_operation(worker, &operation).await {
        Ok(offer) => offer,
        Err(RequestError::NoControl) => return Err(NegotiationError::NoControl),
        // A stock worker refuses the request in words of its own, which do not name the cause:
        // either it does not accept the property `direct`, or it ignores the property and has no
        // import to report.
        Err(RequestError::Refused(answer)) => {
            log.line(format_args!(
                "the target has no direct planes: pve-tunnel is missing, switched off or failing on that node; its worker answered: {answer}"
            ));
            return Ok(OfferedPlanes::default());
        }
        Err(error) => {
            log.line(format_args!("the target has no direct planes: {error}"));
            return Ok(OfferedPlanes::default());
        }
    };
    if let Some(reason) = offer.misconfigured {
        return Err(NegotiationError::TargetConfiguration(shown_on_source(
            &reason,
        )));
    }
    let oldest = offer.oldest.unwrap_or(offer.protocol);
    let common = offer.protocol.min(PROTOCOL);
    if common < oldest.max(OLDEST_PROTOCOL) {
        log.line(format_args!(
            "the target supports direct protocols {oldest} to {}, this node {OLDEST_PROTOCOL} to {PROTOCOL}: no direct planes",
            offer.protocol
        ));
        return Ok(OfferedPlanes::default());
    }
    // Only names that this migration could use: others are not a reason for its plane, and the target
    // must not be able to fill the log. Without direct TLS, the plan has the reason.
    if request.migration_type == MigrationType::Insecure {
        for known in [Capability::DirectTcp, Capability::InsecureRemote] {
            let name = known.name();
            if let Some(reason) = offer.withheld.get(name) {
                let reason = shown_on_source(reason);
                log.line(format_args!("the target does not offer {name}: {reason}"));
            }
        }
    }
    let reason = |known: Capability| {
        let reason = offer.withheld.get(known.name());
        reason.map(|reason| shown_on_source(reason))
    };
    let caps = Capabilities::from_json(&offer.caps)?;
    Ok(OfferedPlanes {
        protocols: Some(oldest.max(OLDEST_PROTOCOL)..=common),
        api_lanes: offer
            .has_websocket_lanes()
            .then_some(common)
            .filter(|protocol| *protocol >= LANES_PROTOCOL),
        accepts_compression: offer.accepts(request.compression),
        caps: caps.names().into_iter().map(str::to_owned).collect(),
        tls_withheld: reason(Capability::DirectTls),
        clear_text_withheld: reason(Capability::DirectTcp),
    })
}

/// Opens a listener on the target and dials it. Closes it again if the dial fails.
async fn reach(
    (plane, agreed): (Plane, Agreed),
    request: &PlaneRequest,
    worker: &WorkerChannel,
    rules: &AddressRules,
    options: &Options,
    log: &Arc<Log>,
) -> Result<Reached, Failed> {
    let identity = match plane {
        Plane::Tls => Some(Identity::one_time().map_err(Failed::new)?),
        _ => None,
    };
    let mut operation = json!({
        "op": "open",
        "protocol": agreed.protocol,
        "plane": plane,
        "dead_peer_timeout": request.dead_peer_seconds(),
    });
    if let Some(network) = &request.network {
        operation["network"] = json!(network);
    }
    if let Some(identity) = &identity {
        operation["fingerprint"] = json!(identity.fingerprint().to_string());
    }
    let reached = match request_operation::<Open>(worker, &operation).await {
        Ok(open) if open.plane != plane || open.protocol != agreed.protocol => {
            Err(Failed::new(ConnectError::OtherPlane {
                plane: open.plane,
                protocol: open.protocol,
            }))
        }
        Ok(open) => {
            let settings = request.lanes().with_compression(agreed.compression);
            let healing = (open.protocol >= LANES_PROTOCOL).then(|| Healing {
                lanes: Arc::new(LaneResources::new(settings, Windows::OF_SOURCE)),
                worker: worker.clone(),
            });
            dial(
                &open,
                identity.as_ref(),
                request,
                healing,
                rules,
                options,
                log,
            )
            .await
        }
        // There is no listener, or it cannot be closed any more.
        Err(error @ (RequestError::Refused(_) | RequestError::NoControl)) => {
            return Err(Failed::new(error));
        }
        Err(error) => Err(Failed::new(error)),
    };
    if reached.is_err() {
        // The listener cannot be used. If this request is lost, the listener ends with its worker.
        let _ = request_operation::<serde_json::Value>(worker, &json!({ "op": "close" })).await;
    }
    reached
}

async fn dial(
    open: &Open,
    identity: Option<&Identity>,
    request: &PlaneRequest,
    healing: Option<Healing>,
    rules: &AddressRules,
    options: &Options,
    log: &Arc<Log>,
) -> Result<Reached, Failed> {
    let (candidates, warnings) = acceptable(open, rules)?;
    let credentials = Credentials::new(open, identity, options).map_err(Failed::new)?;
    let unreachable = |addresses: String, cause: String| Failed {
        addresses: Some((addresses, open.port)),
        cause,
    };
    let deadline = Deadline::within(request.dial_timeout);
    let (stream, candidate) = happy_eyeballs::connect(candidates, deadline)
        .await
        .map_err(|failures| unreachable(failures.addresses(), failures.to_string()))?;
    let address = candidate.endpoint.ip().to_string();
    let limit = request.dead_peer_timeout;
    let (deadline, log) = (deadline, log.clone());
    let target = DirectTarget::dial(
        credentials,
        stream,
        candidate,
        deadline,
        limit,
        healing,
        log,
    )
    .await
    .map_err(|error| unreachable(address, error.to_string()))?;
    Ok(Reached { target, warnings })
}

/// The announced addresses that may be dialled, with warnings about them.
fn acceptable(open: &Open, rules: &AddressRules) -> Result<(Vec<Candidate>, Vec<String>), Failed> {
    let mut accepted = Vec::new();
    let mut warnings = Vec::new();
    let mut refused = Vec::new();
    for &address in open.addresses.iter().take(MAX_ADDRESSES) {
        match rules.accept(open.plane, SocketAddr::new(address, open.port)) {
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
