//! Negotiation of the plane: requests the target's offer, makes the plan, opens the listener that the
//! plan needs, and makes the plan again with the result.

use super::agreed::Agreed;
use super::api_lanes;
use super::direct_listener::{self, Reached};
use super::direct_target::DirectTarget;
use super::negotiation_context::NegotiationContext;
use super::offer::{OfferError, OfferedPlanes, offered_planes};
use super::protocol::{PlaneRequest, TargetData};
use crate::plan::{Dial, Plan, PlanError, PlanInput, plan};
use crate::plane::Plane;
use thiserror::Error;

/// Why there is no plan. Nothing has been changed on the target.
#[derive(Debug, Error)]
pub(super) enum NegotiationError {
    #[error(transparent)]
    Offer(#[from] OfferError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The target supports clear text and does not offer it. An upgrade of either node would not help.
    #[error(
        "clear text is not possible: the target does not offer it: {0}; fix that, or omit migration_type=insecure"
    )]
    Withheld(String),
}

/// The result of a negotiation.
pub(super) struct Negotiated {
    pub(super) plan: Plan,
    pub(super) target: Option<DirectTarget>,
}

/// Negotiates the plane of a migration.
pub(super) async fn negotiate(
    context: &NegotiationContext<'_>,
) -> Result<Negotiated, NegotiationError> {
    let request = context.request;
    let offer = offer(context).await?;
    let agreed = match &offer.protocols {
        Some(common) => {
            let accepts = offer.accepts_compression;
            Agreed::new(request, common, accepts, |text| context.log.line(text))
        }
        None => Agreed::OLDEST,
    };
    let api = offer.api_lanes.zip(request.api_for_lanes());
    let mut input = plan_input(request, offer.caps, offer.tls_withheld);
    let mut decided = plan(&input).map_err(|error| match (error, offer.clear_text_withheld) {
        (PlanError::TargetCannot { .. } | PlanError::SourceCannot { .. }, Some(reason)) => {
            NegotiationError::Withheld(reason)
        }
        (error, _) => error.into(),
    })?;
    let mut target = None;
    if let plane @ (Plane::Tls | Plane::Tcp) = of_forwards(&decided) {
        let opened = direct_listener::open(context, plane, agreed).await;
        input.dial = Some(match &opened {
            Ok(_) => Dial {
                ok: true,
                ..Dial::default()
            },
            Err(failed) => failed.dial(),
        });
        decided = plan(&input)?;
        if let Ok(Reached {
            target: reached,
            warnings,
        }) = opened
        {
            decided.warnings.extend(warnings);
            target = Some(reached);
        }
    }
    if let (Plane::Websocket, Some((protocol, data))) = (of_forwards(&decided), api) {
        let agreed = Agreed { protocol, ..agreed };
        target = open_api_lanes(context, agreed, data, &mut decided).await;
    }
    Ok(Negotiated {
        plan: decided,
        target,
    })
}

/// Requests the target's offer, if this migration could use anything of it.
async fn offer(context: &NegotiationContext<'_>) -> Result<OfferedPlanes, OfferError> {
    let request = context.request;
    let is_direct = |plane: &Plane| matches!(plane, Plane::Tls | Plane::Tcp);
    match request.api_for_lanes().is_some() || request.planes.iter().any(is_direct) {
        true => offered_planes(request, context.worker, context.log).await,
        false => Ok(OfferedPlanes::default()),
    }
}

fn plan_input(
    request: &PlaneRequest,
    offered: Vec<String>,
    tls_withheld: Option<String>,
) -> PlanInput {
    // An ID is valid in this node's configuration only. The target receives the network that the
    // configuration has for it.
    let network = match request.configured {
        true => &request.network,
        false => &request.migration_network,
    };
    let mut caps = request.caps.clone();
    caps.extend(offered);
    PlanInput {
        migration_type: request.migration_type,
        migration_network: network.clone(),
        configured: request.configured,
        caps,
        tls_withheld,
        planes: request.planes.clone(),
        require_encryption: request.require_encryption,
        dial: None,
    }
}

/// Opens a listener behind the API. Without one, the plan works with one websocket for each stream.
async fn open_api_lanes(
    context: &NegotiationContext<'_>,
    agreed: Agreed,
    api: &TargetData,
    decided: &mut Plan,
) -> Option<DirectTarget> {
    match api_lanes::open(context, agreed, api).await {
        Ok(target) => {
            decided.reason.push_str("; ");
            decided.reason.push_str(api_lanes::REASON);
            Some(target)
        }
        Err(cause) => {
            decided.warnings.push(format!(
                "guest data uses one websocket for each stream instead of several: {cause}"
            ));
            None
        }
    }
}

/// The plane of a migration's forwards. QEMU needs none for its own connections.
fn of_forwards(plan: &Plan) -> Plane {
    match plan.plane {
        Plane::Qemu => plan.offline,
        plane => plane,
    }
}
