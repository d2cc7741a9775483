//! Which of the addresses that a target announces may be connected to.
//!
//! The connector applies the rules to listeners. For plane `qemu`, where QEMU connects itself, it
//! passes them to the caller.

use super::happy_eyeballs::Candidate;
use super::protocol::PlaneRequest;
use crate::network::endpoint::{self, EndpointInput, Migrate};
use crate::network::guard::{self, GuardInput};
use crate::network::{Lookup, SystemLookup};
use crate::plane::Plane;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

/// Where the target's API was reached.
pub(super) struct ReachedApi {
    /// The host of the URL.
    pub(super) host: String,
    /// The address of the control connection; none if the kernel does not report it.
    pub(super) address: Option<IpAddr>,
}

/// The rules of one migration, without an address.
pub(super) struct AddressRules {
    endpoint: EndpointInput,
    /// Also applies to clear text.
    guard: GuardInput,
}

impl AddressRules {
    pub(super) fn new(request: &PlaneRequest, api: &ReachedApi) -> Self {
        // Another kind of network is an interface or ID of the target, without a meaning on this node.
        let cidr = request
            .network
            .clone()
            .filter(|network| network.contains('/'));
        let endpoint = EndpointInput {
            // A network of loopback addresses means that both ends are on one machine.
            allow_loopback: cidr.is_some(),
            network: cidr.clone(),
            // An interface or ID that the operator has named is the target's to resolve.
            control: api.address.filter(|_| request.network.is_none()),
            remote: Some(api.host.clone()),
            configured: request
                .migration_network
                .clone()
                .filter(|_| request.configured),
            ..EndpointInput::default()
        };
        let guard = GuardInput {
            // An interface that the call names exists on this node too. A network that is configured
            // for the target may be an interface or ID of the target.
            network: match request.configured {
                true => cidr,
                false => request.network.clone(),
            },
            source_network: request.source_network.clone(),
            public: request.public,
            gateway: request.gateway,
            ..GuardInput::default()
        };
        Self { endpoint, guard }
    }

    /// Accepts an address in the migration network with a port of the migration range. For clear
    /// text the guard has to accept it too.
    pub(super) fn accept(
        &self,
        plane: Plane,
        endpoint: SocketAddr,
    ) -> Result<(Candidate, Vec<String>), String> {
        let address = endpoint.ip();
        // A listener on this node itself would be another migration's. Without a route, the connection
        // fails with the kernel's reason. Loopback is this node itself on purpose, if it is permitted.
        if !address.is_loopback() && SystemLookup.route(address).is_ok_and(|route| route.local) {
            return Err(format!(
                "the target announces {address}, which is an address of this node itself"
            ));
        }
        let announced = EndpointInput {
            migrate: Some(Migrate {
                proto: "tcp".to_owned(),
                addr: address.to_string(),
                port: endpoint.port().into(),
            }),
            ..self.endpoint.clone()
        };
        endpoint::check(&announced).map_err(|error| error.to_string())?;
        if plane == Plane::Tls {
            return Ok((Candidate::any_path(endpoint), Vec::new()));
        }
        let input = GuardInput {
            address: address.to_string(),
            ..self.guard.clone()
        };
        let verdict = guard::check(&input, &SystemLookup).map_err(|error| error.to_string())?;
        // The connection uses exactly what was checked. If the route changes meanwhile, it fails.
        let candidate = Candidate::from(endpoint, verdict.source, verdict.interface);
        Ok((candidate, verdict.warnings))
    }

    /// The rules as parts of the inputs of `pve_tunnel_endpoint_check` and `pve_tunnel_guard_check`.
    pub(super) fn to_json(&self) -> Value {
        let EndpointInput {
            migrate: _,
            nbd_uri: _,
            network,
            control,
            remote,
            configured,
            allow_loopback,
        } = &self.endpoint;
        let GuardInput {
            address: _,
            network: guarded,
            source_network,
            public,
            gateway,
        } = &self.guard;
        json!({
            "endpoint": {
                "network": network,
                "control": control.map(|address| address.to_canonical()),
                "remote": remote,
                "configured": configured,
                "allow_loopback": allow_loopback,
            },
            "guard": {
                "network": guarded,
                "source_network": source_network,
                "public": public,
                "gateway": gateway,
            },
        })
    }
}
