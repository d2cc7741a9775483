//! How many lanes a stream needs: found while it runs, from what limits it.

use crate::direct::lane::LaneSettings;
use crate::relay::Stream;
use crate::system::lock;
use crate::tuning::{Limit, LimitTimes, Observer, State};
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a number of lanes is observed before there are more.
const OBSERVATION: Duration = Duration::from_secs(2);

/// The part of the observed time for which a limit has to apply: one of so many.
const PART: u32 = 2;

/// Below so many lanes, their number is doubled. Then there is one more at a time: it may fill the path,
/// and if several do so at once, many of their packets are lost.
const DOUBLED: u16 = 4;

/// The number of lanes of one stream.
pub(super) struct LaneDemand {
    settings: LaneSettings,
    wanted: watch::Sender<u16>,
    observed: Mutex<Observed>,
}

struct Observed {
    since: Instant,
    limits: LimitTimes,
    /// For how long the congestion control has held the lanes back.
    held_back: Duration,
}

impl Observed {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            limits: LimitTimes::default(),
            held_back: Duration::ZERO,
        }
    }

    /// The larger number of lanes, if that helps against the limit, and the limit.
    fn more(&self, settings: LaneSettings, lanes: u16) -> Option<(u16, Limit)> {
        let limit = self.limits.main()?;
        let total: Duration = self.limits.each().map(|(_, time)| time).sum();
        let most = match limit {
            // Each lane has buffers of its own.
            Limit::Window => settings.lanes,
            // A loss slows only one of them, and together they find the rate of a long path sooner.
            Limit::Loss | Limit::Rate if self.held_back >= total / PART => settings.lanes,
            // More lanes than threads do not use more cores.
            Limit::Core => settings.lanes.min(settings.threads + 1),
            Limit::Loss | Limit::Rate | Limit::Source | Limit::Target => return None,
        };
        let wanted = match lanes < DOUBLED {
            true => 2 * lanes,
            false => lanes.saturating_add(1),
        };
        let wanted = wanted.min(most);
        (wanted > lanes && self.limits.of(limit) >= total / PART).then_some((wanted, limit))
    }
}

impl LaneDemand {
    pub(super) fn new(settings: LaneSettings) -> Self {
        Self {
            settings,
            wanted: watch::Sender::new(settings.first),
            observed: Mutex::new(Observed::new()),
        }
    }

    /// Whether the stream has this lane, counted from 1, whatever limits it.
    pub(super) fn is_first(&self, lane: u16) -> bool {
        lane <= self.settings.first
    }

    /// Waits until the stream needs this lane.
    pub(super) async fn reaches(&self, lane: u16) {
        let mut wanted = self.wanted.subscribe();
        // The sender lives as long as this value.
        let _ = wanted.wait_for(|wanted| *wanted >= lane).await;
    }

    /// One of the lanes was limited by this, for that time. Returns the new number of lanes if there
    /// shall be more, and what limits.
    fn observe(&self, limit: Limit, time: Duration, state: State) -> Option<(u16, Limit)> {
        let observed = &mut *lock(&self.observed);
        if state.is_adapted {
            *observed = Observed::new();
            return None;
        }
        observed.limits.add(limit, time);
        if state.is_held_back {
            observed.held_back += time;
        }
        if observed.since.elapsed() < OBSERVATION {
            return None;
        }
        let observed = std::mem::replace(observed, Observed::new());
        let before = *self.wanted.borrow();
        let (wanted, limit) = observed.more(self.settings, before)?;
        self.wanted.send_replace(wanted);
        Some((wanted, limit))
    }
}

/// Observes the lanes of a stream for its demand and for another observer.
pub(super) struct LaneObserver {
    pub(super) demand: Arc<LaneDemand>,
    pub(super) stream: Arc<Stream>,
    pub(super) observer: Arc<dyn Observer>,
}

impl Observer for LaneObserver {
    fn socket_changed(&self, text: &dyn Display) {
        self.observer.socket_changed(text);
    }

    fn limited_by(&self, limit: Limit, time: Duration, state: State) {
        let shown = match (limit, self.stream.full_window()) {
            // The lane has nothing to send, because the window of the stream is too small for the path or
            // full of data that the program at the target has not read. More lanes help against neither.
            (Limit::Source, Some(bytes)) if state.in_flight as u64 > bytes / 2 => Limit::Window,
            (Limit::Source, Some(_)) => Limit::Target,
            (limit, _) => limit,
        };
        self.observer.limited_by(shown, time, state);
        if let Some((lanes, limit)) = self.demand.observe(limit, time, state) {
            let reason = match limit {
                Limit::Rate => "the congestion control of TCP",
                limit => limit.description(),
            };
            self.lane_changed(&format_args!(
                "up to {lanes} lanes, because it is limited by {reason}"
            ));
        }
    }

    fn lane_changed(&self, text: &dyn Display) {
        self.observer.lane_changed(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Compression;

    fn settings(lanes: u16, threads: u16) -> LaneSettings {
        LaneSettings {
            lanes,
            first: 1,
            compression: Compression::None,
            threads,
        }
    }

    #[test]
    fn more_lanes_help_against_a_congestion_control_that_holds_them_back() {
        for limit in [Limit::Rate, Limit::Loss] {
            let more = |held_back| {
                let mut observed = Observed::new();
                observed.limits.add(limit, Duration::from_secs(2));
                observed.held_back = Duration::from_millis(held_back);
                observed.more(settings(8, 1), 2)
            };
            assert_eq!(more(1000), Some((4, limit)));
            assert_eq!(more(900), None);
        }
    }

    #[test]
    fn a_change_of_a_socket_begins_the_observation_again() {
        let demand = LaneDemand::new(settings(8, 1));
        let observe = |is_adapted| {
            let state = State {
                is_adapted,
                ..State::default()
            };
            demand.observe(Limit::Window, 2 * OBSERVATION, state)
        };
        lock(&demand.observed).since = Instant::now() - OBSERVATION;
        assert_eq!(observe(true), None);
        assert_eq!(observe(false), None);
        lock(&demand.observed).since = Instant::now() - OBSERVATION;
        assert_eq!(observe(false), Some((2, Limit::Window)));
    }

    #[test]
    fn more_lanes_are_opened_where_they_help() {
        for (limit, settings, lanes, expected) in [
            (Limit::Window, settings(8, 1), 1, Some(2)),
            (Limit::Window, settings(8, 1), 2, Some(4)),
            (Limit::Window, settings(3, 1), 2, Some(3)),
            (Limit::Window, settings(8, 1), 4, Some(5)),
            (Limit::Window, settings(8, 1), 7, Some(8)),
            (Limit::Window, settings(8, 1), 8, None),
            (Limit::Core, settings(8, 3), 2, Some(4)),
            (Limit::Core, settings(8, 3), 4, None),
            (Limit::Loss, settings(8, 3), 1, None),
            (Limit::Rate, settings(8, 3), 1, None),
            (Limit::Source, settings(8, 3), 1, None),
            (Limit::Target, settings(8, 3), 1, None),
        ] {
            let mut observed = Observed::new();
            observed.limits.add(limit, Duration::from_secs(2));
            let expected = expected.map(|lanes| (lanes, limit));
            let more = observed.more(settings, lanes);
            assert_eq!(more, expected, "{limit:?} {lanes}");
            // Less than half of the time.
            for other in Limit::ALL.into_iter().filter(|other| *other != limit) {
                observed.limits.add(other, Duration::from_secs(1));
            }
            let more = observed.more(settings, lanes);
            assert_eq!(more, None, "{limit:?} {lanes}");
        }
    }
}
