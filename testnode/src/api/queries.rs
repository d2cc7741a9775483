//! Requests that only read.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::response::ApiError;
use super::{Api, vmid_parameter};
use crate::worker::Kind;
use crate::{form, guests, inventory};

/// The IDs that `GET /cluster/nextid` returns unless the cluster configures others.
const FREE_VMIDS: std::ops::Range<u32> = 100..1_000_000;

impl Api {
    /// `GET /version`. Every user may send it.
    pub(super) fn version(&self) -> Value {
        self.inventory.version.report()
    }

    /// `GET /cluster/status` of a node without a cluster.
    pub(super) fn cluster_status(&self) -> Result<Value, ApiError> {
        self.require("/", &["Sys.Audit"])?;
        Ok(json!([{
            "type": "node",
            "id": format!("node/{}", self.node),
            "name": self.node,
            "ip": self.address,
            "local": 1,
            "online": 1,
            "nodeid": 0,
            "level": "",
        }]))
    }

    /// `GET /cluster/options`. Without the privilege, only the tags that the token may set.
    pub(super) fn cluster_options(&self) -> Value {
        let mut options = self.inventory.options.clone();
        if !self.permissions.has("/", "Sys.Audit") {
            options.retain(|name, _| name == "allowed-tags");
        }
        options.into()
    }

    /// `GET /cluster/nextid`: the first free ID, or the requested one if it is free. Every user may
    /// send it. An ID is in use if its guest has a tunnel or a configuration.
    pub(super) async fn next_id(&self, query: &str) -> Result<Value, ApiError> {
        if let Some(reason) = self.misbehaviours.fail_next_id() {
            return Err(ApiError::internal(reason));
        }
        let mut used = self.guests.configured().map_err(ApiError::internal)?;
        used.extend(self.workers.running().await);
        if let Some(vmid) = parameter(query, "vmid") {
            let vmid = vmid_parameter(&vmid)?;
            if used.contains(&vmid) {
                let reason = format!("VM {vmid} already exists");
                return Err(ApiError::parameter("vmid", reason));
            }
            return Ok(Value::from(vmid.to_string()));
        }
        let free = FREE_VMIDS.into_iter().find(|vmid| !used.contains(vmid));
        let free = free.ok_or_else(|| {
            let (first, last) = (FREE_VMIDS.start, FREE_VMIDS.end);
            ApiError::internal(format!(
                "unable to get any free VMID in range [{first}, {last}]"
            ))
        })?;
        Ok(Value::from(free.to_string()))
    }

    /// `GET /access/permissions`. A token may query its own; those of others need a privilege.
    pub(super) fn token_permissions(&self, query: &str) -> Result<Value, ApiError> {
        let user = parameter(query, "userid");
        if user.is_some_and(|user| user != self.token.id()) {
            self.require("/access", &["Sys.Audit"])?;
            // No other user has privileges here.
            return Ok(json!({}));
        }
        Ok(match parameter(query, "path") {
            Some(path) => self.permissions.listing_of(&path),
            None => self.permissions.listing(),
        })
    }

    /// `GET …/storage/ID/status`.
    pub(super) fn storage_status(&self, id: &str) -> Result<Value, ApiError> {
        self.require(
            &format!("/storage/{id}"),
            &["Datastore.Audit", "Datastore.AllocateSpace"],
        )?;
        let storage = self.inventory.storage(id);
        let storage = storage.ok_or(ApiError::parameter("storage", "No such storage."))?;
        storage
            .status(self.guests.dir())
            .map_err(ApiError::internal)
    }

    /// `GET …/network`: the bridges that the token may use, at least with one VLAN tag.
    pub(super) fn interfaces(&self) -> Value {
        let may_use = |name: &&String| {
            let path = format!("/sdn/zones/localnetwork/{name}");
            ["SDN.Use", "SDN.Audit"]
                .iter()
                .any(|each| self.permissions.has_there_or_below(&path, each))
        };
        let described = |name: &String| {
            let mut bridge = inventory::bridge();
            bridge["iface"] = json!(name);
            bridge
        };
        let bridges = self.inventory.bridges.iter().filter(may_use);
        bridges.map(described).collect()
    }

    /// `GET …/network/IFACE`. The only interfaces of the node are its bridges.
    pub(super) fn interface(&self, name: &str) -> Result<Value, ApiError> {
        self.require(&format!("/nodes/{}", self.node), &["Sys.Audit"])?;
        match self.inventory.has_bridge(name) {
            true => Ok(inventory::bridge()),
            false => Err(ApiError::parameter("iface", "interface does not exist")),
        }
    }

    /// `GET …/qemu/VMID/config` and `GET …/lxc/VMID/config`.
    pub(super) async fn configuration(&self, kind: Kind, vmid: u32) -> Result<Value, ApiError> {
        self.require(&format!("/vms/{vmid}"), &["VM.Audit"])?;
        let text = self.guests.read(vmid).map_err(ApiError::internal)?;
        let text = match text {
            // The tunnel of the guest has not received a configuration yet.
            None if self.workers.running().await.contains(&vmid) => Some(guests::LOCKED.to_owned()),
            text => text,
        };
        let tunnel = self.workers.kind(vmid).await;
        let options = text
            .filter(|text| tunnel.unwrap_or_else(|| guests::kind(text)) == kind)
            .map(|text| guests::options(&text));
        options.ok_or_else(|| {
            let (node, directory) = (&self.node, kind.directory());
            ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("Configuration file 'nodes/{node}/{directory}/{vmid}.conf' does not exist"),
            )
        })
    }
}

/// The value of one parameter of a query string.
fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = form::pairs(query).into_iter();
    pairs
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value)
        .next()
}
