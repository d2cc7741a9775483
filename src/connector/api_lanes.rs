//! Lanes through the target's API: each one is a websocket to the listener's UNIX socket.
//!
//! The processes of pveproxy share the work, and the listener reads whatever arrives, so that their
//! buffers hold no more than the windows of the streams. A stream survives the end of its websockets.

use super::Options;
use super::api_route::{Api, ApiRoute};
use super::connect_error::ConnectError;
use super::direct_target::{DirectTarget, Healing};
use super::protocol::PlaneRequest;
use super::worker::{RequestError, WorkerChannel, request_operation};
use crate::direct::message::OpenSocket;
use crate::direct::{LaneResources, Windows};
use crate::lanes::Compression;
use crate::plane::Plane;
use crate::process::Log;
use serde_json::{Value, json};
use std::sync::Arc;

/// The lanes of a stream, whether or not they help: one for each process that pveproxy has by default.
pub(super) const FIRST_LANES: u16 = 3;

/// Why they are used, for the plan.
pub(super) const REASON: &str =
    "each stream through the API uses several websockets, because the target supports that";

/// Opens a listener behind the API, and a connection to it. Closes it again if there is no connection.
/// Returns the reason of a failure.
pub(super) async fn open(
    (protocol, compression): (u16, Compression),
    request: &PlaneRequest,
    worker: &WorkerChannel,
    api: Api<'_>,
    options: &Arc<Options>,
    log: &Arc<Log>,
) -> Result<DirectTarget, String> {
    let operation = json!({
        "op": "open",
        "protocol": protocol,
        "plane": Plane::Websocket,
        "dead_peer_timeout": request.dead_peer_seconds(),
    });
    let connected = match request_operation::<OpenSocket>(worker, &operation).await {
        Ok(open) if open.plane != Plane::Websocket || open.protocol != protocol => {
            Err(ConnectError::OtherPlane {
                plane: open.plane,
                protocol: open.protocol,
            })
        }
        Ok(open) => {
            let lanes = request.lanes().at_least(FIRST_LANES);
            let lanes = lanes.with_compression(compression);
            let healing = Healing {
                lanes: Arc::new(LaneResources::new(lanes, Windows::OF_SOURCE)),
                worker: worker.clone(),
            };
            let limit = request.dead_peer_timeout;
            let (options, log) = (options.clone(), log.clone());
            match ApiRoute::new(&open, api, worker, options) {
                Ok(route) => DirectTarget::through_api(route, limit, healing, log).await,
                Err(error) => Err(error.into()),
            }
        }
        // There is no listener, or it cannot be closed any more.
        Err(error @ (RequestError::Refused(_) | RequestError::NoControl)) => {
            return Err(error.to_string());
        }
        Err(error) => Err(error.into()),
    };
    if connected.is_err() {
        // If this request is lost, the listener ends with its worker.
        let _ = request_operation::<Value>(worker, &json!({ "op": "close" })).await;
    }
    connected.map_err(|error| error.to_string())
}
