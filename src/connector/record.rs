//! What happened to the data, told once: a line for people and one for programs.

use super::direct::Summary;
use super::traffic::Total;
use crate::capability::{Plan, Plane};
use crate::direct::message::{Refused, Stat};
use serde::Serialize;
use std::fmt;
use std::net::SocketAddr;

/// The way that the data of forwards took.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Way {
    #[serde(rename = "forwards_plane")]
    pub(super) plane: Plane,
    pub(super) protocol: Option<u16>,
    pub(super) cipher: String,
    pub(super) local: Option<String>,
    pub(super) remote: String,
    pub(super) fingerprint: Option<String>,
    pub(super) own_fingerprint: Option<String>,
}

impl From<Summary> for Way {
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

/// What happened, for people by [`Display`](fmt::Display) and for programs as JSON.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Record {
    /// Of the plan, `qemu` among them; that of the forwards is in `way`.
    plane: Plane,
    #[serde(flatten)]
    way: Way,
    sent: u64,
    received: u64,
    /// In which at least one connection was open.
    seconds: f64,
    forwards: u64,
    connections: u64,
    failed: u64,
    /// By reason; null if the target could not be asked, or has no listener.
    refused: Option<Refused>,
}

impl Record {
    /// Of what went this way; `stat` is the target's last word on its listener.
    pub(super) fn new(total: &Total, plan: Option<&Plan>, way: Way, stat: Option<&Stat>) -> Self {
        Self {
            plane: plan.map_or(way.plane, |plan| plan.plane),
            way,
            sent: total.sent,
            received: total.received,
            seconds: (total.time.as_secs_f64() * 1e6).round() / 1e6,
            forwards: total.forwards,
            connections: total.connections,
            failed: total.failed,
            refused: stat.map(|stat| stat.refused),
        }
    }

    /// Whether there is anything to tell.
    pub(super) fn is_empty(&self) -> bool {
        self.connections == 0 && self.failed == 0
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plane {}", self.plane.name())?;
        if self.plane != self.way.plane {
            write!(f, ", forwards on plane {}", self.way.plane.name())?;
        }
        write!(f, " ({}) ", self.way.cipher)?;
        if let Some(local) = &self.way.local {
            write!(f, "from {local} ")?;
        }
        write!(f, "to {}", self.way.remote)?;
        if let Some(fingerprint) = &self.way.fingerprint {
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
        match &self.refused {
            Some(refused) => write!(f, ", {} refused by the target", refused.total()),
            None => Ok(()),
        }
    }
}

/// A number of bytes for people.
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    #[allow(clippy::cast_precision_loss)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut size = self.0 as f64 / 1024.0;
        let mut units = UNITS.iter();
        let mut unit = units.next();
        while size >= 1024.0 {
            let Some(next) = units.next() else { break };
            unit = Some(next);
            size /= 1024.0;
        }
        write!(f, "{size:.1} {}", unit.unwrap_or(&"KiB"))
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub(super) fn rate(bytes: u64, seconds: f64) -> u64 {
    (bytes as f64 / seconds.max(0.001)) as u64
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn sizes_are_readable() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (1 << 40, "1.0 TiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), expected);
        }
    }
}
