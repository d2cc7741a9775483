//! What the steps of a negotiation share.

use super::Options;
use super::address_rules::AddressRules;
use super::api_address::ApiAddress;
use super::protocol::PlaneRequest;
use super::worker::{WorkerChannel, request_operation};
use crate::process::Log;
use serde_json::{Value, json};
use std::sync::Arc;

/// What the plane of a migration is negotiated with.
pub(super) struct NegotiationContext<'a> {
    pub(super) request: &'a PlaneRequest,
    pub(super) worker: &'a WorkerChannel,
    /// Of the target's API.
    pub(super) address: &'a Arc<ApiAddress>,
    pub(super) rules: &'a AddressRules,
    pub(super) options: &'a Arc<Options>,
    pub(super) log: &'a Arc<Log>,
}

impl NegotiationContext<'_> {
    /// Closes a listener that cannot be used. If this request is lost, it ends with its worker.
    pub(super) async fn close_listener(&self) {
        let _ = request_operation::<Value>(self.worker, &json!({ "op": "close" })).await;
    }
}
