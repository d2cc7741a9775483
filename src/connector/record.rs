//! The record of a migration's data: one line for people and one for programs.

use super::direct_target::Summary;
use super::forward::{LimitedBy, Total};
use crate::direct::message::{Refused, Stat};
use crate::lanes::LaneUsage;
use crate::plan::Plan;
use crate::plane::Plane;
use crate::quantity::{Size, rate};
use crate::tuning::Limit;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// The path that the data of the forwards took.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RecordedPath {
    #[serde(rename = "forwards_plane")]
    pub(super) plane: Plane,
    pub(super) protocol: Option<u16>,
    pub(super) cipher: String,
    pub(super) local: Option<String>,
    pub(super) remote: String,
    pub(super) fingerprint: Option<String>,
    pub(super) own_fingerprint: Option<String>,
}

impl From<Summary> for RecordedPath {
    fn from(summary: Summary) -> Self {
        Self {
            plane: summary.plane,
            protocol: Some(summary.protocol),
            cipher: summary.cipher,
            local: Some(summary.local.to_string()),
            remote: SocketAddr::new(summary.address, summary.port).to_string(),
            fingerprint: summary.fingerprint,
            own_fingerprint: summary.own_fingerprint,
        }
    }
}

/// What was transferred: for people by [`Display`](fmt::Display), for programs as JSON.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Record {
    /// The plane of the plan, which may be `qemu`. `path` has the plane of the forwards.
    plane: Plane,
    #[serde(flatten)]
    path: RecordedPath,
    sent: u64,
    received: u64,
    /// In which at least one connection was open.
    seconds: f64,
    forwards: u64,
    connections: u64,
    failed: u64,
    /// What has limited the data for most of the time; null if it was not observed.
    limited_by: Option<&'static str>,
    /// For how long each of them has, in seconds, summed over the connections.
    limited: BTreeMap<&'static str, f64>,
    #[serde(skip)]
    limit: Option<Limit>,
    /// Null if each stream has one connection.
    lanes: Option<LaneUsage>,
    /// By reason; null if the target has no listener or did not answer.
    refused: Option<Refused>,
}

impl Record {
    /// The record of the forwards on this path; `stat` is the target's last report on its listener.
    pub(super) fn new(
        total: &Total,
        plan: Option<&Plan>,
        path: RecordedPath,
        stat: Option<&Stat>,
    ) -> Self {
        Self {
            plane: plan.map_or(path.plane, |plan| plan.plane),
            path,
            sent: total.sent,
            received: total.received,
            seconds: seconds(total.time),
            forwards: total.forwards,
            connections: total.connections,
            failed: total.failed,
            limited_by: total.limits.main().map(Limit::name),
            limited: total
                .limits
                .each()
                .map(|(limit, time)| (limit.name(), seconds(time)))
                .collect(),
            limit: total.limits.main(),
            lanes: (!total.lanes.is_none()).then_some(total.lanes),
            refused: stat.map(|stat| stat.refused),
        }
    }

    /// Whether no connection was opened or tried.
    pub(super) fn is_empty(&self) -> bool {
        self.connections == 0 && self.failed == 0
    }
}

/// Seconds, to the microsecond.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plane {}", self.plane.name())?;
        if self.plane != self.path.plane {
            write!(f, ", forwards on plane {}", self.path.plane.name())?;
        }
        write!(f, " ({}) ", self.path.cipher)?;
        if let Some(local) = &self.path.local {
            write!(f, "from {local} ")?;
        }
        write!(f, "to {}", self.path.remote)?;
        if let Some(fingerprint) = &self.path.fingerprint {
            write!(f, ", fingerprint {fingerprint}")?;
        }
        write!(
            f,
            ": {} sent, {} received in {:.1} s, {}/s, {} forwards, {} connections, {} of them failed",
            Size(self.sent),
            Size(self.received),
            self.seconds,
            Size(rate(self.sent + self.received, self.seconds)),
            self.forwards,
            self.connections,
            self.failed
        )?;
        let lanes = self.lanes.unwrap_or_default();
        write!(f, "{lanes}{}", LimitedBy(self.limit))?;
        match &self.refused {
            Some(refused) => write!(f, ", {} refused by the target", refused.total()),
            None => Ok(()),
        }
    }
}
