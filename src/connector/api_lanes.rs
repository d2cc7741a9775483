//! Lanes through the target's API: each one is a websocket to the listener's UNIX socket.
//!
//! The processes of pveproxy share the work, and the listener reads whatever arrives, so that their
//! buffers hold no more than the windows of the streams. A stream survives the end of its websockets.

use super::agreed::Agreed;
use super::api_route::ApiRoute;
use super::connect_error::ConnectError;
use super::direct_target::{DirectTarget, Healing};
use super::negotiation_context::NegotiationContext;
use super::protocol::TargetData;
use super::worker::{RequestError, request_operation};
use crate::direct::message::OpenSocket;
use crate::direct::{LaneResources, Windows};
use crate::plane::Plane;
use serde_json::json;
use std::sync::Arc;

/// The lanes of a stream, whether or not they help: one for each process that pveproxy has by default.
pub(super) const FIRST_LANES: u16 = 3;

/// Why they are used, for the plan.
pub(super) const REASON: &str =
    "each stream through the API uses several websockets, because the target supports that";

/// Opens a listener behind the API, and a connection to it. Closes it again if there is no connection.
/// Returns the reason of a failure.
pub(super) async fn open(
    context: &NegotiationContext<'_>,
    agreed: Agreed,
    api: &TargetData,
) -> Result<DirectTarget, String> {
    let operation = json!({
        "op": "open",
        "protocol": agreed.protocol,
        "plane": Plane::Websocket,
        "dead_peer_timeout": context.request.dead_peer_seconds(),
    });
    let connected = match request_operation::<OpenSocket>(context.worker, &operation).await {
        Ok(open) if open.plane != Plane::Websocket || open.protocol != agreed.protocol => {
            Err(ConnectError::OtherPlane {
                plane: open.plane,
                protocol: open.protocol,
            })
        }
        Ok(open) => connect(context, &open, agreed, api).await,
        // There is no listener, or it cannot be closed any more.
        Err(error @ (RequestError::Refused(_) | RequestError::NoControl)) => {
            return Err(error.to_string());
        }
        Err(error) => Err(error.into()),
    };
    if connected.is_err() {
        context.close_listener().await;
    }
    connected.map_err(|error| error.to_string())
}

async fn connect(
    context: &NegotiationContext<'_>,
    open: &OpenSocket,
    agreed: Agreed,
    api: &TargetData,
) -> Result<DirectTarget, ConnectError> {
    let NegotiationContext {
        request,
        worker,
        address,
        options,
        log,
        ..
    } = *context;
    let lanes = request.lanes().at_least(FIRST_LANES);
    let lanes = lanes.with_compression(agreed.compression);
    let healing = Healing {
        lanes: Arc::new(LaneResources::new(lanes, Windows::OF_SOURCE)),
        worker: worker.clone(),
    };
    let route = ApiRoute::new(open, api, address.clone(), worker, options.clone())?;
    DirectTarget::through_api(route, request.dead_peer_timeout, healing, log.clone()).await
}
