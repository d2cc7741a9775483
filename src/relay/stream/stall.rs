//! Streams that do not advance because of one lane: the other ones send what it carries, too.
//!
//! A lane that repairs a loss, or whose path is dead, keeps back all data behind its own. In the terms
//! of multipath TCP, the others reinject its data: the first copy that arrives counts.

use super::lane::{OpenLane, Way};
use super::outbound::Outbound;
use super::{ACKNOWLEDGEMENT_INTERVAL, Stream};
use crate::lanes::LaneId;
use crate::system::tcp_info::TcpInfo;
use std::time::{Duration, Instant};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Interval at which a lane without anything to send checks whether the stream advances.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// After so many round trips without an acknowledgement, a full window is stalled. TCP needs one for the
/// repair of a single loss.
const ROUND_TRIPS: u32 = 2;

/// When a lane checks.
pub(super) fn checks() -> Interval {
    let mut checks = interval(CHECK_INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    checks
}

/// The stream since its last acknowledgement.
pub(super) struct Stall {
    acknowledged: u64,
    since: Instant,
    /// The lanes with nothing on its way. Their data waits for that of other lanes, or for the local
    /// program of the peer.
    arrived: Vec<LaneId>,
}

impl Stall {
    fn at(acknowledged: u64) -> Self {
        Self {
            acknowledged,
            since: Instant::now(),
            arrived: Vec::new(),
        }
    }

    /// A lane sends new data.
    pub(super) fn sent(&mut self, lane: LaneId) {
        self.arrived.retain(|arrived| *arrived != lane);
    }

    /// Whether nothing that a lane has sent is on its way. It is not asked again until it sends new data:
    /// what it sends in the place of another lane is on its way for a round trip.
    fn has_arrived(&mut self, lane: LaneId, info: &TcpInfo) -> bool {
        let known = self.arrived.contains(&lane);
        let arrives = !known && info.unacked == 0 && info.unsent == 0;
        if arrives {
            self.arrived.push(lane);
        }
        known || arrives
    }
}

impl Stream {
    /// What this lane has to send in the place of another one; called at `checks`, while the lane has
    /// nothing else to send. The next check follows at once if there is something.
    pub(super) fn reinject(&self, lane: &OpenLane<'_>, checks: &mut Interval) -> Option<Outbound> {
        // A proxy acknowledges data that has not arrived.
        let Way::Direct(socket) = lane.way else {
            return None;
        };
        let info = TcpInfo::of(socket).ok()?;
        let state = &mut *self.state();
        let acknowledged = state.sender.acknowledged();
        if state.lanes < 2 || state.sender.is_acknowledged() {
            state.stall = None;
            return None;
        }
        let current = state.stall.take();
        let current = current.filter(|stall| stall.acknowledged == acknowledged);
        let stall = current.unwrap_or_else(|| Stall::at(acknowledged));
        let is_window_full = state.has_full_window();
        let stall = state.stall.insert(stall);

        // One interval more, so that every lane has checked whether its data has arrived.
        let mut limit = (ROUND_TRIPS * info.round_trip).max(CHECK_INTERVAL) + CHECK_INTERVAL;
        if !is_window_full {
            // The peer acknowledges so little data later.
            limit += ACKNOWLEDGEMENT_INTERVAL;
        }
        if !stall.has_arrived(lane.id, &info) || stall.since.elapsed() < limit {
            return None;
        }
        let arrived = &stall.arrived;
        let reinjected = state
            .sender
            .reinject(lane.id, |other| arrived.contains(&other))?;
        checks.reset_immediately();
        Some(Outbound::again(&reinjected, &self.counters.lanes))
    }
}
