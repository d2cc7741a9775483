//! Whether a source is present. A listener without a heartbeat has no use, but keeps a port.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// The heartbeats that are open.
pub(super) struct Presence(watch::Sender<usize>);

/// One open heartbeat.
pub(super) struct Present<'a>(&'a Presence);

impl Presence {
    pub(super) fn none() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Counts a heartbeat until the result is dropped.
    pub(super) fn enter(&self) -> Present<'_> {
        self.0.send_modify(|open| *open += 1);
        Present(self)
    }

    /// Waits until there has been no heartbeat for `limit`.
    pub(super) async fn absent_for(&self, limit: Duration) {
        let mut open = self.0.subscribe();
        loop {
            // The sender is in `self`, so neither wait can fail.
            let returned = timeout(limit, open.wait_for(|open| *open > 0))
                .await
                .is_ok();
            if !returned {
                return;
            }
            let _ = open.wait_for(|open| *open == 0).await;
        }
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test]
    async fn absence_is_counted_from_the_start_and_from_the_last_heartbeat() {
        let limit = Duration::from_millis(100);
        let presence = Presence::none();
        let started = Instant::now();
        presence.absent_for(limit).await;
        assert!(started.elapsed() >= limit);

        let heartbeat = presence.enter();
        let waited = timeout(3 * limit, presence.absent_for(limit)).await;
        assert!(waited.is_err(), "a heartbeat is open");
        let end = async {
            drop(heartbeat);
            Instant::now()
        };
        let (ended, ()) = tokio::join!(end, presence.absent_for(limit));
        assert!(ended.elapsed() >= limit);
    }
}
