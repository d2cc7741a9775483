//! `pve-tunnel list`: the running tunnels of this node, with their rates.

mod table;

use pve_tunnel::publication::{self, Published, Tunnel};
use pve_tunnel::quantity::rate;
use serde::Serialize;
use std::fmt;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use thiserror::Error;

/// The time in which the rates are measured.
const INTERVAL: Duration = Duration::from_secs(1);

/// The tunnels cannot be listed.
#[derive(Debug, Error)]
#[error("cannot read '{directory}': {cause}{}", hint(.cause))]
pub(crate) struct ListError {
    directory: &'static str,
    cause: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run this command as root",
        _ => "",
    }
}

/// The running tunnels. As JSON it is what `pve-tunnel list --json` prints, and by
/// [`Display`](fmt::Display) what `pve-tunnel list` prints.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Listing {
    tunnels: Vec<Listed>,
    /// Processes that exist and do not answer.
    unanswered: Vec<u32>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Listed {
    #[serde(flatten)]
    tunnel: Tunnel,
    /// Bytes per second in both directions; none for a tunnel that has begun since the first of two
    /// measurements.
    rate: Option<u64>,
}

impl Listing {
    /// The tunnels of this node. Takes [`INTERVAL`] if there is one.
    pub(crate) fn of_this_node() -> Result<Self, ListError> {
        let directory = publication::DIRECTORY;
        let read = || {
            publication::read(Path::new(directory)).map_err(|cause| ListError { directory, cause })
        };
        let first = read()?;
        if first.tunnels.is_empty() {
            return Ok(Self::between(&first.tunnels, first.clone()));
        }
        sleep(INTERVAL);
        Ok(Self::between(&first.tunnels, read()?))
    }

    /// The tunnels of the last measurement. A tunnel that is not in it has ended.
    fn between(first: &[Tunnel], last: Published) -> Self {
        let listed = |tunnel: Tunnel| {
            let before = first.iter().find(|before| is_same(before, &tunnel));
            let rate = before.and_then(|before| rate_between(before, &tunnel));
            Listed { tunnel, rate }
        };
        Self {
            tunnels: last.tunnels.into_iter().map(listed).collect(),
            unanswered: last.unanswered,
        }
    }
}

/// A process may have ended between two measurements, and another one may have its ID.
fn is_same(before: &Tunnel, now: &Tunnel) -> bool {
    let key = |tunnel: &Tunnel| (tunnel.pid, tunnel.since, tunnel.state.role);
    key(before) == key(now) && before.seconds < now.seconds
}

fn rate_between(before: &Tunnel, now: &Tunnel) -> Option<u64> {
    let bytes = moved(now).checked_sub(moved(before))?;
    Some(rate(bytes, now.seconds - before.seconds))
}

/// Bytes in both directions.
fn moved(tunnel: &Tunnel) -> u64 {
    let state = &tunnel.state;
    state.sent.saturating_add(state.received)
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        table::write(f, self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pve_tunnel::publication::{Role, TunnelState};
    use serde_json::{Value, json};
    use std::slice::from_ref;

    pub(super) const GIB: u64 = 1 << 30;

    pub(super) fn tunnel(role: Role, pid: u32) -> Tunnel {
        Tunnel {
            pid,
            since: 1_764_437_520,
            seconds: 200.5,
            state: TunnelState {
                role,
                guest: Some(100),
                peer_guest: None,
                peer: None,
                plane: Some("tls".to_owned()),
                sent: 12 * GIB,
                received: 0,
                total: None,
                total_is: None,
            },
        }
    }

    fn later(tunnel: &Tunnel, seconds: f64, sent: u64) -> Tunnel {
        let mut later = tunnel.clone();
        later.seconds += seconds;
        later.state.sent += sent;
        later
    }

    fn rates(first: &[Tunnel], last: Vec<Tunnel>) -> Vec<Option<u64>> {
        let last = Published {
            tunnels: last,
            unanswered: Vec::new(),
        };
        let listing = Listing::between(first, last);
        listing.tunnels.iter().map(|listed| listed.rate).collect()
    }

    #[test]
    fn the_rate_is_that_between_two_measurements_of_one_process() {
        let first = tunnel(Role::Source, 7);
        let moving = later(&first, 2.0, 3000);
        assert_eq!(rates(from_ref(&first), vec![moving.clone()]), [Some(1500)]);
        // A tunnel that has ended is not listed, and a new one has no rate yet.
        let new = tunnel(Role::Target, 8);
        assert_eq!(rates(from_ref(&first), vec![new]), [None]);
        // Another process with the same ID.
        let mut reused = moving.clone();
        reused.since += 1;
        let mut restarted = first.clone();
        restarted.seconds = 0.1;
        for other in [reused, restarted] {
            assert_eq!(rates(from_ref(&first), vec![other]), [None]);
        }
    }

    #[test]
    fn the_json_has_every_key() {
        let first = tunnel(Role::Source, 7);
        let published = Published {
            tunnels: vec![later(&first, 1.0, 10)],
            unanswered: vec![9],
        };
        let listing = Listing::between(&[first], published);
        let json: Value = serde_json::to_value(&listing).unwrap();
        let expected = json!({
            "tunnels": [{
                "role": "source", "pid": 7, "guest": 100, "peer_guest": null, "peer": null,
                "plane": "tls", "sent": 12 * GIB + 10, "received": 0, "rate": 10,
                "total": null, "total_is": null, "since": 1_764_437_520, "seconds": 201.5,
            }],
            "unanswered": [9],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn an_error_names_the_directory_and_what_to_do() {
        let cause = io::ErrorKind::PermissionDenied.into();
        let directory = "/run/tunnels";
        assert_eq!(
            ListError { directory, cause }.to_string(),
            "cannot read '/run/tunnels': permission denied; run this command as root"
        );
    }
}
