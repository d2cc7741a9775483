//! A listener of a direct plane: opened on the target, and dialled.

use super::address_rules::AddressRules;
use super::agreed::Agreed;
use super::connect_error::ConnectError;
use super::direct_endpoint::Credentials;
use super::direct_target::{DirectTarget, Healing};
use super::happy_eyeballs::{self, Candidate, Deadline};
use super::negotiation_context::NegotiationContext;
use super::worker::{RequestError, request_operation};
use crate::direct::message::{MAX_ADDRESSES, Open};
use crate::direct::{LANES_PROTOCOL, LaneResources, Windows};
use crate::plan::Dial;
use crate::plane::Plane;
use crate::tls::Identity;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;

/// A listener that can be used, with warnings for the operator about the network path.
pub(super) struct Reached {
    pub(super) target: DirectTarget,
    pub(super) warnings: Vec<String>,
}

/// Why a listener cannot be used.
pub(super) struct Failed {
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

    /// What the plan is made again with.
    pub(super) fn dial(&self) -> Dial {
        Dial {
            ok: false,
            address: self.addresses.as_ref().map(|(text, _)| text.clone()),
            port: self.addresses.as_ref().map(|(_, port)| *port),
            error: Some(self.cause.clone()),
        }
    }
}

/// Opens a listener on the target and dials it. Closes it again if the dial fails.
pub(super) async fn open(
    context: &NegotiationContext<'_>,
    plane: Plane,
    agreed: Agreed,
) -> Result<Reached, Failed> {
    let request = context.request;
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
    let reached = match request_operation::<Open>(context.worker, &operation).await {
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
                worker: context.worker.clone(),
            });
            dial(context, &open, identity.as_ref(), healing).await
        }
        // There is no listener, or it cannot be closed any more.
        Err(error @ (RequestError::Refused(_) | RequestError::NoControl)) => {
            return Err(Failed::new(error));
        }
        Err(error) => Err(Failed::new(error)),
    };
    if reached.is_err() {
        context.close_listener().await;
    }
    reached
}

async fn dial(
    context: &NegotiationContext<'_>,
    open: &Open,
    identity: Option<&Identity>,
    healing: Option<Healing>,
) -> Result<Reached, Failed> {
    let NegotiationContext {
        request,
        rules,
        options,
        log,
        ..
    } = context;
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
    let target = DirectTarget::dial(
        credentials,
        stream,
        candidate,
        deadline,
        request.dead_peer_timeout,
        healing,
        Arc::clone(log),
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
