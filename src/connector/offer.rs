//! What the target offers: protocols, capabilities, and why it withholds some.

use super::protocol::PlaneRequest;
use super::worker::{RequestError, WorkerChannel, request_operation};
use crate::capability::{Capabilities, Capability, CapabilityError};
use crate::direct::message::{Offer, shown_on_source};
use crate::direct::{LANES_PROTOCOL, OLDEST_PROTOCOL, PROTOCOL};
use crate::plane::MigrationType;
use crate::process::Log;
use serde_json::json;
use std::ops::RangeInclusive;
use thiserror::Error;

/// Why nothing can be agreed on.
#[derive(Debug, Error)]
pub(super) enum OfferError {
    #[error("the control connection has ended")]
    NoControl,
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// The target's configuration may forbid the migration.
    #[error("the target's configuration has a mistake: {0}; fix it on the target node")]
    TargetConfiguration(String),
}

/// What the target's seam offers.
#[derive(Default)]
pub(super) struct OfferedPlanes {
    /// The protocols in common; none without direct planes.
    pub(super) protocols: Option<RangeInclusive<u16>>,
    /// The protocol of lanes through the API; none if the target has none.
    pub(super) api_lanes: Option<u16>,
    /// The target accepts what the source was requested to compress.
    pub(super) accepts_compression: bool,
    /// Names of capabilities.
    pub(super) caps: Vec<String>,
    /// Why direct TLS is not among them, if the target gives a reason.
    pub(super) tls_withheld: Option<String>,
    /// The same for clear text.
    pub(super) clear_text_withheld: Option<String>,
}

/// Requests the seam's offer. The offer is empty if the target has no seam, or a seam without a
/// protocol in common.
pub(super) async fn offered_planes(
    request: &PlaneRequest,
    worker: &WorkerChannel,
    log: &Log,
) -> Result<OfferedPlanes, OfferError> {
    let operation = json!({
        "op": "hello",
        "protocol": PROTOCOL,
        "version": env!("CARGO_PKG_VERSION"),
    });
    let offer: Offer = match request_operation(worker, &operation).await {
        Ok(offer) => offer,
        Err(RequestError::NoControl) => return Err(OfferError::NoControl),
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
        return Err(OfferError::TargetConfiguration(shown_on_source(&reason)));
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
