//! The heartbeat of a migration: one connection at a time.
//!
//! A second one is refused while the first is alive. If the first has been silent for so long that
//! beats are missing, the second replaces it: a source may reconnect before the kernel of this node
//! has detected that its first connection is dead.

use std::time::{Duration, Instant};

/// Whether there is a heartbeat, and when its last beat arrived.
#[derive(Debug)]
pub(super) struct HeartbeatSlot<T> {
    /// Longer than this without a beat, and a new heartbeat replaces the open one.
    silence: Duration,
    open: Option<Open<T>>,
}

#[derive(Debug)]
struct Open<T> {
    connection: u64,
    last_beat: Instant,
    value: T,
}

/// The decision about a new heartbeat.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision<T> {
    /// It is the heartbeat now, in place of the one that the value belongs to.
    Accepted(Option<T>),
    /// There is another one, which is alive.
    Refused,
}

impl<T> HeartbeatSlot<T> {
    /// The source sends four beats in one dead-peer limit. After half a limit, one is missing for
    /// certain.
    pub(super) fn new(dead_peer_timeout: Duration) -> Self {
        Self {
            silence: dead_peer_timeout / 2,
            open: None,
        }
    }

    pub(super) fn take(&mut self, connection: u64, value: T, now: Instant) -> Decision<T> {
        if let Some(open) = &self.open {
            if now.saturating_duration_since(open.last_beat) <= self.silence {
                return Decision::Refused;
            }
        }
        let open = Open {
            connection,
            last_beat: now,
            value,
        };
        Decision::Accepted(self.open.replace(open).map(|replaced| replaced.value))
    }

    /// A beat of this connection has arrived.
    pub(super) fn beat(&mut self, connection: u64, now: Instant) {
        if let Some(open) = self
            .open
            .as_mut()
            .filter(|open| open.connection == connection)
        {
            open.last_beat = now;
        }
    }

    /// The connection has ended.
    pub(super) fn free(&mut self, connection: u64) {
        self.open.take_if(|open| open.connection == connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn a_second_heartbeat_is_refused_while_the_first_is_alive() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut slot = HeartbeatSlot::new(LIMIT);
        assert_eq!(slot.take(1, "first", at(0)), Decision::Accepted(None));
        slot.beat(1, at(15));
        slot.beat(1, at(30));
        assert_eq!(slot.take(2, "second", at(60)), Decision::Refused);
        // Beats of a refused connection and its end have no effect.
        slot.beat(2, at(60));
        slot.free(2);
        assert_eq!(slot.take(3, "third", at(60)), Decision::Refused);
        // Silent for more than half of the limit.
        assert_eq!(
            slot.take(4, "fourth", at(61)),
            Decision::Accepted(Some("first"))
        );
        // The end of the replaced one does not free the slot.
        slot.free(1);
        assert_eq!(slot.take(5, "fifth", at(62)), Decision::Refused);
        slot.free(4);
        assert_eq!(slot.take(6, "sixth", at(62)), Decision::Accepted(None));
    }
}
